//! The page at `/metrics`, which includes the memory usage of the process.

use std::fmt::Write;
use std::fs;

/// The values on the page, without the memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metrics {
    /// Without those to `/health` and `/metrics`.
    pub(crate) requests: u64,
    /// Spans lost because the queue was full or the collector did not accept them; `None` if nothing is traced.
    pub(crate) spans_dropped: Option<u64>,
}

/// The page in the Prometheus text format.
pub(crate) fn page(metrics: Metrics) -> String {
    let mut page = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
        let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    };
    metric("demo_requests_total", "counter", "Requests, not counting health checks and scrapes.", metrics.requests);
    if let Some(dropped) = metrics.spans_dropped {
        metric("demo_spans_dropped_total", "counter", "Spans lost on the way to the collector.", dropped);
    }
    if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident) {
        metric("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", bytes);
    }
    page
}

/// The resident memory in bytes, from `/proc/self/status`, which has it in KiB.
fn resident(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::resident;

    #[test]
    fn the_resident_memory_is_read() {
        let cases = [
            ("Name:\tx\nVmRSS:\t    5120 kB\nRssAnon:\t 1 kB\n", Some(5 * 1024 * 1024)),
            ("VmRSS:\t0 kB\n", Some(0)),
            ("VmRSS:\t5120\n", None),
            ("VmRSS:\t-1 kB\n", None),
            ("VmRSS:\t18446744073709551615 kB\n", None),
            ("VmHWM:\t5120 kB\n", None),
            ("", None),
        ];
        for (status, bytes) in cases {
            assert_eq!(resident(status), bytes, "{status:?}");
        }
    }
}
