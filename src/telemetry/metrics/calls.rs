//! The counts of gRPC calls.

use prometheus::proto::Metric;

use super::float;
use super::names::GRPC_RESPONSES;
use crate::live::route::{LiveRoute, RouteCounters};

/// The gRPC calls of a route by status. Those that have not been counted yet are there with the first call.
pub(super) fn series(route: &LiveRoute) -> Vec<Metric> {
    let Some(total) = route.counters.iter().filter_map(RouteCounters::calls).reduce(|mut total, counts| {
        total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        total
    }) else {
        return Vec::new();
    };
    let series = |(status, count): (usize, u64)| {
        GRPC_RESPONSES.value(&[&route.name, itoa::Buffer::new().format(status)], float(count))
    };
    total.into_iter().enumerate().map(series).collect()
}
