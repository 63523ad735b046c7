//! Telemetry: what the process tells of itself.

pub mod metrics;
