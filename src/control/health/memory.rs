//! What a server says of its own memory, on its Prometheus page.

use std::time::Duration;

use crate::control::health::probe::{self, Question};
use crate::live::server::Server;

/// The most that is read of a page, in bytes.
const PAGE_BYTES: usize = 1024 * 1024;

/// Readings that may fail in a row before the last good one is too old to be told.
const STALE: u32 = 3;

const NAME: &str = "process_resident_memory_bytes";

/// Keeps a server's figure as long as it is fresh.
#[derive(Debug, Default)]
pub struct Readings {
    /// Those in a row that brought nothing.
    missed: u32,
}

impl Readings {
    /// Takes in one reading, `None` if it failed, and notes at `server` what follows from it.
    pub fn record(&mut self, reading: Option<u64>, server: &Server) {
        self.missed = if reading.is_some() { 0 } else { self.missed.saturating_add(1) };
        if reading.is_some() || self.missed >= STALE {
            server.set_memory(reading);
        }
    }
}

/// Reads the page at `path` once; returns the server's resident bytes if it says them.
pub async fn read(server: &Server, path: &str, timeout: Duration) -> Option<u64> {
    let accept = "text/plain;version=0.0.4";
    let question = Question { path, accept, body: Some(PAGE_BYTES), timeout };
    let reason = match probe::get(server, question).await {
        Ok((200, page)) => match resident_bytes(&String::from_utf8_lossy(&page)) {
            Some(bytes) => return Some(bytes),
            None => format!("no {NAME} there"),
        },
        Ok((status, _)) => format!("status {status}"),
        Err(failure) => failure.to_string(),
    };
    tracing::debug!(pool = %server.key.pool, server = %server.key.name, path, reason, "memory not read");
    None
}

/// The first good `process_resident_memory_bytes` of a page in Prometheus' text format.
#[must_use]
pub fn resident_bytes(page: &str) -> Option<u64> {
    page.lines().find_map(sample)
}

/// The value of one line, if the line is a sample of [`NAME`] and the value can be a size.
fn sample(line: &str) -> Option<u64> {
    let rest = line.trim_start().strip_prefix(NAME)?;
    let rest = match rest.trim_start().strip_prefix('{') {
        Some(labels) => after_labels(labels)?,
        None => rest.strip_prefix([' ', '\t'])?,
    };
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    // Neither NaN nor an infinity is in here.
    (0.0..2_f64.powi(64)).contains(&value).then_some(value as u64)
}

/// What follows the brace that closes the labels; braces within quotes close nothing.
fn after_labels(labels: &str) -> Option<&str> {
    let (mut quoted, mut escaped) = (false, false);
    for (place, character) in labels.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return labels.get(place + 1..),
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
    use crate::live::server::ServerKey;

    #[test]
    fn the_value_is_found() {
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
    fn what_is_no_size_is_unknown() {
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
    fn a_figure_goes_with_the_third_missed_reading() {
        let key = ServerKey {
            pool: Arc::from("default"),
            name: Arc::from("server1"),
            address: Address::Ip("127.0.0.1:1".parse().unwrap()),
        };
        let server = Server::new(1, key, HealthState::Up, 1);
        let mut readings = Readings::default();
        let row = [None, Some(1), None, None, Some(2), None, None, None, None, Some(3)];
        let told = row.map(|reading| {
            readings.record(reading, &server);
            server.memory()
        });
        let expected = [None, Some(1), Some(1), Some(1), Some(2), Some(2), Some(2), None, None, Some(3)];
        assert_eq!(told, expected);
    }
}
