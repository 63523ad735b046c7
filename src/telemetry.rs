//! Observability of requests and of the process: access log, process log, metrics, traces.
//!
//! - [`access_log`]: one line per request, on standard output.
//! - [`history`]: the counters over the last minutes, from which rates and quantiles are computed.
//! - [`log_throttle`]: limits how often the same thing is logged.
//! - [`logs`]: the process log, on standard error.
//! - [`metrics`]: the page that Prometheus scrapes.
//! - [`panics`]: counts and logs panics.
//! - [`trace`]: spans of sampled requests, sent to a collector.
//!
//! A request never waits for any of them. Lines and spans that cannot be written in time are dropped
//! and counted, which is logged at most once a minute.

pub mod access_log;
pub mod history;
pub mod log_throttle;
pub mod logs;
pub mod metrics;
pub mod panics;
pub mod trace;

use std::time::Duration;

/// Between two messages about lost lines or spans.
const LOSS_LOG_INTERVAL: Duration = Duration::from_secs(60);
