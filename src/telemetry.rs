//! Observability of requests and of the process: access log, process log, metrics, traces.
//!
//! - [`access_log`]: one line per request, on standard output.
//! - [`history`]: the counters over the last minutes, from which rates and quantiles are computed.
//! - [`line_output`]: whole lines on an output that may fail.
//! - [`log_throttle`]: limits how often the same thing is logged.
//! - [`logs`]: the process log, on standard error.
//! - [`metrics`]: the page that Prometheus scrapes.
//! - [`panics`]: counts and logs panics.
//! - [`trace`]: spans of sampled requests, sent to a collector.
//!
//! Neither a request nor the control plane ever waits for any of them. Lines and spans that cannot be written in time are dropped
//! and counted, which is logged at most once a minute.

pub mod access_log;
pub mod history;
pub mod line_output;
pub mod log_throttle;
mod log_writer;
pub mod logs;
pub mod metrics;
pub mod panics;
pub mod trace;

use std::time::Duration;

/// Between two messages about lost lines or spans.
const LOSS_LOG_INTERVAL: Duration = Duration::from_secs(60);
