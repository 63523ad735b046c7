//! A server's resident memory, as its own Prometheus page reports it.

use crate::control::health::LOG_TARGET;
use crate::control::health::probe::{self, CheckRule};
use crate::live::server::Server;

/// After so many failed readings in a row the last figure is discarded.
const STALE: u32 = 3;

const NAME: &str = "process_resident_memory_bytes";

/// Keeps a server's figure while it is fresh.
#[derive(Debug, Default)]
pub struct Readings {
    /// Failed readings in a row.
    missed: u32,
}

impl Readings {
    /// Records one reading at `server`; `None` is a failed one.
    pub fn record(&mut self, reading: Option<u64>, server: &Server) {
        self.missed = if reading.is_some() { 0 } else { self.missed.saturating_add(1) };
        if reading.is_some() || self.missed >= STALE {
            server.set_memory(reading);
        }
    }
}

/// Fetches the page once that `rule` names, if it does, and returns the server's resident bytes, if the page has them.
pub async fn read(server: &Server, rule: &CheckRule) -> Option<u64> {
    let path = rule.config.memory.as_ref()?;
    let reason = match probe::page(server, rule, path, "text/plain;version=0.0.4").await {
        Ok((200, page)) => match resident_bytes(&String::from_utf8_lossy(&page)) {
            Some(bytes) => return Some(bytes),
            None => format!("no {NAME} on the page"),
        },
        Ok((status, _)) => format!("status {status}"),
        Err(error) => error.to_string(),
    };
    tracing::debug!(target: LOG_TARGET, pool = %server.key.pool, server = %server.key.name, reason, "memory not read");
    None
}

/// Returns the first valid `process_resident_memory_bytes` of a page in Prometheus' text format.
#[must_use]
pub fn resident_bytes(page: &str) -> Option<u64> {
    page.lines().find_map(sample)
}

/// Returns the value of one line, if it is a sample of [`NAME`] whose value can be a size.
fn sample(line: &str) -> Option<u64> {
    let rest = line.trim_start().strip_prefix(NAME)?;
    let rest = match rest.trim_start().strip_prefix('{') {
        Some(labels) => after_labels(labels)?,
        None => rest.strip_prefix([' ', '\t'])?,
    };
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    // The range contains neither NaN nor an infinity.
    (0.0..2_f64.powi(64)).contains(&value).then_some(value as u64)
}

/// Returns the text after the brace that closes the labels; a brace within quotes does not.
fn after_labels(labels: &str) -> Option<&str> {
    let (mut quoted, mut escaped) = (false, false);
    for (index, character) in labels.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return labels.get(index + 1..),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Address;
    use crate::live::health::HealthState;
    use crate::live::server::{ServerId, ServerKey};

    #[test]
    fn the_first_valid_value_counts() {
        let cases = [
            ("process_resident_memory_bytes 4096", Some(4096)),
            ("process_resident_memory_bytes 1.2e+07", Some(12_000_000)),
            ("process_resident_memory_bytes\t4096.0 1395066363000\n", Some(4096)),
            ("process_resident_memory_bytes{} 1", Some(1)),
            ("process_resident_memory_bytes{app=\"a\", path=\"C:\\\\\"} 2", Some(2)),
            ("process_resident_memory_bytes {app=\"a } 7\\\" } 8\"} 3", Some(3)),
            ("process_resident_memory_bytes{app=\"}\"}4", Some(4)),
            ("  process_resident_memory_bytes 5\r\n", Some(5)),
            ("process_resident_memory_bytes 0", Some(0)),
            (
                "# HELP process_resident_memory_bytes Size.\n# TYPE process_resident_memory_bytes gauge\n\
              process_virtual_memory_bytes 1\nprocess_resident_memory_bytes 6\nz 1\n",
                Some(6),
            ),
            ("process_resident_memory_bytes NaN\nprocess_resident_memory_bytes{a=\"b\"} 7", Some(7)),
        ];
        for (page, expected) in cases {
            assert_eq!(resident_bytes(page), expected, "{page:?}");
        }
    }

    #[test]
    fn other_lines_and_values_are_not_sizes() {
        let pages = [
            "",
            "process_resident_memory_bytes",
            "process_resident_memory_bytes ",
            "process_resident_memory_bytes NaN",
            "process_resident_memory_bytes +Inf",
            "process_resident_memory_bytes -Inf",
            "process_resident_memory_bytes -1",
            "process_resident_memory_bytes 1e20",
            "process_resident_memory_bytes many",
            "process_resident_memory_bytes{app=\"a\" 1",
            "process_resident_memory_bytes{app=\"a",
            "process_resident_memory_bytes_total 1",
            "my_process_resident_memory_bytes 1",
            "# process_resident_memory_bytes 1",
            "<html>process_resident_memory_bytes 1</html>",
        ];
        for page in pages {
            assert_eq!(resident_bytes(page), None, "{page:?}");
        }
    }

    #[test]
    fn a_figure_is_discarded_at_the_third_missed_reading() {
        let key = ServerKey {
            pool: Arc::from("default"),
            name: Arc::from("server1"),
            address: Address::Ip("127.0.0.1:1".parse().unwrap()),
        };
        let server = Server::new(ServerId(1), key, HealthState::Up, 1);
        let mut readings = Readings::default();
        let row = [None, Some(1), None, None, Some(2), None, None, None, None, Some(3)];
        let shown = row.map(|reading| {
            readings.record(reading, &server);
            server.memory()
        });
        let expected = [None, Some(1), Some(1), Some(1), Some(2), Some(2), Some(2), None, None, Some(3)];
        assert_eq!(shown, expected);
    }
}
