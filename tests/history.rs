//! The history of the counters: points of the chart, and the last minute of a route.

use std::time::{Duration, Instant, SystemTime};

use http::Method;
use lb::live::method;
use lb::telemetry::history::{CHART_POINTS, ChartPoint, History, RecentCounts, STEP};

mod support;
use support::{Fixture, config, three};

impl Fixture {
    /// Counts responses with this status by the only route, each after `millis`.
    fn respond(&self, status: u16, millis: u64, count: usize) {
        let snapshot = self.state.snapshot.load();
        let set = snapshot.routes[0].live.counters.of(1);
        for _ in 0..count {
            set.codes.add(method::key(&Method::GET, status));
            set.seconds.observe(Duration::from_millis(millis));
        }
    }
}

#[test]
fn a_point_of_the_chart_covers_its_step() {
    let (fixture, start, at) = (Fixture::new(config(vec![three()])), Instant::now(), SystemTime::now());
    let mut history = History::default();
    let mut sample = |step: u32| {
        history.sample(&fixture.state.snapshot.load(), start + step * STEP, at + step * STEP);
        history.chart().cloned().collect::<Vec<_>>()
    };
    fixture.respond(200, 1, 7);
    assert_eq!(sample(0), [], "it is unknown when those were served");
    fixture.respond(200, 2, 90);
    fixture.respond(502, 700, 10);
    sample(1);
    let points = sample(2);
    let quiet = ChartPoint { at: at + 2 * STEP, per_second: 0.0, errors_per_second: 0.0, p50: None, p99: None };
    assert_eq!(points[1], quiet);
    assert_eq!((points[0].per_second, points[0].errors_per_second), (20.0, 2.0));
    let within = |seconds: Option<f64>, bounds: [f64; 2]| seconds.is_some_and(|s| s > bounds[0] && s <= bounds[1]);
    assert!(within(points[0].p50, [0.001, 0.002_5]) && within(points[0].p99, [0.5, 1.0]), "{:?}", points[0]);
    // The oldest points are dropped.
    let points = (3..300).map(sample).last().expect("points");
    assert_eq!((points.len(), points[0].at), (CHART_POINTS, at + 120 * STEP));
}

#[test]
fn a_route_has_a_history_from_when_it_is_added_until_it_is_removed() {
    let (mut fixture, start, at) = (Fixture::new(config(vec![three()])), Instant::now(), SystemTime::now());
    let mut history = History::default();
    history.sample(&fixture.state.snapshot.load(), start, at);
    fixture.edit(|config| "other".clone_into(&mut config.routes[0].name));
    fixture.respond(200, 1, 50);
    let now = start + STEP;
    let recent = |history: &History, now| history.of_route(&fixture.state.snapshot.load().routes[0].live, now);
    assert!((recent(&history, now).per_second - 10.0).abs() < 1e-9);
    history.sample(&fixture.state.snapshot.load(), now, at + STEP);
    assert!((history.chart().next_back().expect("a step").per_second - 10.0).abs() < 1e-9);
    for step in 2..20 {
        history.sample(&fixture.state.snapshot.load(), start + step * STEP, at + step * STEP);
    }
    assert_eq!(recent(&history, start + 20 * STEP), RecentCounts::default());
}
