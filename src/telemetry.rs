//! What is told about the requests and the process: the access log, the process log, traces.
//!
//! - [`access_log`]: one line a request, to standard output, on a path of its own.
//! - [`faults`]: what should not happen.
//! - [`history`]: the last minutes of the counters, for who looks at rates rather than at sums.
//! - [`logs`]: what the process has to say about itself, to standard error.
//! - [`metrics`]: what Prometheus asks for, from the live state.
//! - [`trace`]: spans of sampled requests, to a collector.
//!
//! Common to all: a request never waits for them. What cannot be told in time is dropped, counted,
//! and said at most once a minute.

pub mod access_log;
pub mod faults;
pub mod history;
pub mod logs;
pub mod metrics;
mod seldom;
pub mod trace;
