//! History: what a row of looks at the counters says of the minutes between them.

use std::time::{Duration, Instant, SystemTime};

use http::Method;
use lb::live::method;
use lb::telemetry::history::{History, SAMPLES, STEP, Sample};

mod support;
use support::{Fixture, config, three};

impl Fixture {
    /// Answers of this status by the only route, each of which took so long.
    fn answered(&self, status: u16, millis: u64, count: usize) {
        let snapshot = self.state.snapshot.load();
        let set = snapshot.routes[0].live.counters.of(1);
        for _ in 0..count {
            set.codes.add(method::key(&Method::GET, status));
            set.seconds.observe(Duration::from_millis(millis));
        }
    }
}

#[test]
fn a_point_of_the_chart_is_what_came_in_its_step() {
    let (fixture, start, at) = (Fixture::new(config(vec![three()])), Instant::now(), SystemTime::now());
    let mut history = History::default();
    let mut look = |step: u32| {
        history.sample(&fixture.state.snapshot.load(), start + step * STEP, at + step * STEP);
        history.samples().cloned().collect::<Vec<_>>()
    };
    fixture.answered(200, 1, 7);
    assert_eq!(look(0), [], "nobody knows when those came");
    fixture.answered(200, 2, 90);
    fixture.answered(502, 700, 10);
    look(1);
    let samples = look(2);
    let quiet = Sample { at: at + 2 * STEP, per_second: 0.0, errors_per_second: 0.0, p50: None, p99: None };
    assert_eq!(samples[1], quiet);
    assert_eq!((samples[0].per_second, samples[0].errors_per_second), (20.0, 2.0));
    let within = |seconds: Option<f64>, bounds: [f64; 2]| seconds.is_some_and(|s| s > bounds[0] && s <= bounds[1]);
    assert!(within(samples[0].p50, [0.001, 0.002_5]) && within(samples[0].p99, [0.5, 1.0]), "{:?}", samples[0]);
    // So long, and no longer.
    let samples = (3..300).map(look).last().expect("looks");
    assert_eq!((samples.len(), samples[0].at), (SAMPLES, at + 120 * STEP));
}

#[test]
fn a_route_is_told_of_from_when_it_came_until_it_goes() {
    let (mut fixture, start, at) = (Fixture::new(config(vec![three()])), Instant::now(), SystemTime::now());
    let mut history = History::default();
    history.sample(&fixture.state.snapshot.load(), start, at);
    fixture.edit(|config| "other".clone_into(&mut config.routes[0].name));
    fixture.answered(200, 1, 50);
    let now = start + STEP;
    let recent = |history: &History, now| history.of_route(&fixture.state.snapshot.load().routes[0].live, now);
    assert!((recent(&history, now).per_second - 10.0).abs() < 1e-9);
    history.sample(&fixture.state.snapshot.load(), now, at + STEP);
    assert!((history.samples().next_back().expect("a step").per_second - 10.0).abs() < 1e-9);
    for step in 2..20 {
        history.sample(&fixture.state.snapshot.load(), start + step * STEP, at + step * STEP);
    }
    assert_eq!(recent(&history, start + 20 * STEP), lb::telemetry::history::Recent::default());
}
