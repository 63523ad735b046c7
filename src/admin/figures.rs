//! The JSON forms of `/api/figures`, the current state with the rates and latencies of the last minute, and of
//! `/api/history`, the points of the chart.

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde::Serialize;

use crate::admin::view::{self, CertificateView, ConfigState, ListenerView, PoolView, RouteView, ServerView, as_time};
use crate::admin::warnings::warnings;
use crate::live::snapshot::Snapshot;
use crate::live::{listener::LiveListener, state::State};
use crate::telemetry::history::{self, History};

#[derive(Serialize)]
pub(super) struct FiguresView<'a> {
    generation: u64,
    hash: &'a str,
    /// The main file first.
    files: Vec<&'a Path>,
    state: ConfigState,
    warnings: Vec<String>,
    #[serde(serialize_with = "as_time")]
    applied_at: SystemTime,
    #[serde(serialize_with = "as_time")]
    /// When the figures were collected.
    at: SystemTime,
    stopping: bool,
    total: TotalView,
    pools: Vec<PoolView<'a>>,
    servers: Vec<ServerFiguresView<'a>>,
    routes: Vec<RouteFiguresView<'a>>,
    listeners: Vec<ListenerView<'a>>,
    certificates: Vec<CertificateView<'a>>,
}

/// Totals: recent requests of all routes, including those that matched none; active requests of all servers;
/// connections of all listeners.
#[derive(Serialize)]
struct TotalView {
    active_requests: u64,
    connections: u64,
    recent: RecentView,
}

#[derive(Serialize)]
struct ServerFiguresView<'a> {
    #[serde(flatten)]
    server: ServerView<'a>,
    /// The server's actual share of its pool's responses in the last minute.
    served_share: Option<f64>,
    recent: RecentView,
}

#[derive(Serialize)]
struct RouteFiguresView<'a> {
    #[serde(flatten)]
    route: RouteView<'a>,
    recent: RecentView,
}

/// Rates over the last 5 to 10 seconds, everything else over the last minute. Requests count once they have a response.
#[derive(Serialize)]
struct RecentView {
    requests_per_second: f64,
    errors_per_second: f64,
    requests: u32,
    errors: u32,
    p50_seconds: Option<f64>,
    p99_seconds: Option<f64>,
}

impl From<history::RecentCounts> for RecentView {
    fn from(recent: history::RecentCounts) -> Self {
        Self {
            requests_per_second: recent.per_second,
            errors_per_second: recent.errors_per_second,
            requests: recent.minute.requests,
            errors: recent.minute.errors,
            p50_seconds: recent.minute.quantile(0.5),
            p99_seconds: recent.minute.quantile(0.99),
        }
    }
}

impl<'a> FiguresView<'a> {
    pub(super) fn new(
        state: &State,
        snapshot: &'a Snapshot,
        listeners: &'a [Arc<LiveListener>],
        history: &History,
    ) -> Self {
        let now = Instant::now();
        let mut total = history.of_route(&snapshot.unrouted, now);
        let routes = snapshot.config.routes.iter().zip(snapshot.routes.iter()).map(|(route, live)| {
            let recent = history.of_route(&live.live, now);
            total += recent;
            RouteFiguresView { route: RouteView::new(route, live, snapshot), recent: recent.into() }
        });
        let routes = routes.collect();
        Self {
            generation: snapshot.generation,
            hash: &snapshot.hash,
            files: snapshot.files.iter().map(|file| &*file.path).collect(),
            state: ConfigState::of(snapshot, state.reloads().last_outcome()),
            warnings: warnings(state, snapshot),
            applied_at: snapshot.applied_at,
            at: SystemTime::now(),
            stopping: state.is_stopping(),
            total: TotalView {
                active_requests: snapshot
                    .pools
                    .iter()
                    .flat_map(|pool| &pool.members)
                    .map(|member| member.server.active_requests())
                    .sum(),
                connections: listeners.iter().map(|listener| listener.connections()).sum(),
                recent: total.into(),
            },
            pools: view::pools(snapshot).collect(),
            servers: servers(snapshot, history, now),
            routes,
            listeners: listeners.iter().map(|listener| ListenerView::new(listener)).collect(),
            certificates: view::certificates(snapshot).collect(),
        }
    }
}

fn servers<'a>(snapshot: &'a Snapshot, history: &History, now: Instant) -> Vec<ServerFiguresView<'a>> {
    let mut servers = Vec::new();
    for pool in &snapshot.pools {
        let recent: Vec<_> = pool.members.iter().map(|member| history.of_server(&member.server, now)).collect();
        let total: f64 = recent.iter().map(|recent| f64::from(recent.minute.requests)).sum();
        servers.extend(view::servers_of(snapshot, pool).zip(recent).map(|(server, recent)| ServerFiguresView {
            server,
            served_share: (total > 0.0).then(|| f64::from(recent.minute.requests) / total),
            recent: recent.into(),
        }));
    }
    servers
}

#[derive(Serialize)]
pub(super) struct HistoryView {
    generation: u64,
    step_seconds: u64,
    samples: Vec<SampleView>,
}

#[derive(Serialize)]
pub(super) struct SampleView {
    #[serde(serialize_with = "as_time")]
    at: SystemTime,
    requests_per_second: f64,
    errors_per_second: f64,
    p50_seconds: Option<f64>,
    p99_seconds: Option<f64>,
}

impl HistoryView {
    pub(super) fn new(generation: u64, history: &History) -> Self {
        let samples = history.chart().map(SampleView::new).collect();
        Self { generation, step_seconds: history::STEP.as_secs(), samples }
    }
}

impl SampleView {
    pub(super) fn new(point: &history::ChartPoint) -> Self {
        Self {
            at: point.at,
            requests_per_second: point.per_second,
            errors_per_second: point.errors_per_second,
            p50_seconds: point.p50,
            p99_seconds: point.p99,
        }
    }
}
