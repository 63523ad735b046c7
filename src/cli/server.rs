//! `lb server list`, `show` and `random`: the API's answers about servers as tables.

use std::io::{self, Write};

use clap::Subcommand;
use serde::Deserialize as _;
use serde_json::Value;

use super::check::json;
use crate::cli::api::{Api, QueryError, ServerReply};
use crate::cli::table::{Align, Cell, Table, Tone, percent};
use crate::config::Algorithm;
use crate::live::pool::Status;

/// What is asked about servers.
#[derive(Debug, Subcommand)]
pub(super) enum ServerCommand {
    /// All servers, or those of a pool
    List {
        /// Only this pool's.
        #[arg(long)]
        pool: Option<String>,
        /// The API's answer, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// One server
    Show {
        /// Its name.
        name: String,
        /// Its pool, where two pools have a server of that name.
        #[arg(long)]
        pool: Option<String>,
        /// The API's answer, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// One of the servers that take requests, each equally likely
    Random {
        /// Only of this pool's.
        #[arg(long)]
        pool: Option<String>,
        /// The API's answer, as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Writes the answer to `out`.
///
/// # Errors
/// When the balancer does not answer or refuses; an `out` that cannot be written to is told as [`Ok`]
/// of an error.
pub(super) fn server(
    command: &ServerCommand,
    api: &Api,
    colored: bool,
    out: &mut dyn Write,
) -> Result<io::Result<()>, QueryError> {
    let (path, pool, as_json) = match command {
        ServerCommand::List { pool, json } => ("/api/servers".to_owned(), pool, json),
        ServerCommand::Show { name, pool, json } => (format!("/api/servers/{}", encoded(name)), pool, json),
        ServerCommand::Random { pool, json } => ("/api/random".to_owned(), pool, json),
    };
    let query = pool.as_ref().map_or_else(String::new, |pool| format!("?pool={}", encoded(pool)));
    let answer: Value = api.get(&format!("{path}{query}"))?;
    if *as_json {
        return Ok(json(&answer, out));
    }
    let foreign = |error: serde_json::Error| QueryError::Unexpected(api.at().clone(), error.to_string());
    let text = match answer.get("servers") {
        Some(servers) => listed(&Vec::deserialize(servers).map_err(foreign)?).draw("", colored),
        None => one(&ServerReply::deserialize(&answer).map_err(foreign)?).draw("", colored),
    };
    Ok(out.write_all(text.as_bytes()))
}

fn listed(servers: &[ServerReply]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("POOL", Left),
        ("SERVER", Left),
        ("ADDRESS", Left),
        ("STATUS", Left),
        ("WEIGHT", Right),
        ("SHARE", Right),
        ("OPEN", Right),
        ("REQUESTS", Right),
    ]);
    for server in servers {
        let cells = [
            Cell::from(&server.pool),
            Cell::from(&server.name),
            Cell::from(&server.address),
            health(server.status),
            Cell::from(&server.weight),
            Cell::from(&percent(server.share)),
            Cell::from(&server.active_requests),
            Cell::from(&server.requests_total),
        ];
        table.row(cells, None);
    }
    table
}

fn one(server: &ServerReply) -> Table {
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    let mut row = |name: &str, value: Cell| table.row([Cell::from(name), value], None);
    row("name", Cell::from(&server.name));
    row("pool", Cell::from(&server.pool));
    row("address", Cell::from(&server.address));
    row("status", health(server.status));
    row("since", Cell::from(&format!("{} ago", server.age())));
    row("enabled", Cell::from(&server.enabled));
    row("weight", Cell::from(&server.weight));
    row("share", Cell::from(&percent(server.share)));
    row("open", Cell::from(&server.active_requests));
    row("requests", Cell::from(&server.requests_total));
    if let Some(bytes) = server.memory_bytes {
        row("memory", Cell::from(&format!("{} KiB", bytes / 1024)));
    }
    if let Some(check) = &server.last_check {
        let (age, milliseconds) = (check.age(), check.seconds * 1e3);
        let words = match &check.error {
            None => Cell::from(&format!("passed {age} ago in {milliseconds:.1} ms")),
            Some(error) => Cell::from(&format!("failed {age} ago: {error}")).tone(Tone::Bad),
        };
        row("last check", words);
    }
    table
}

/// A status in its colour.
pub(super) fn health(status: Status) -> Cell {
    let tone = match status {
        Status::Up => Tone::Good,
        Status::Down => Tone::Bad,
        Status::Checking | Status::Draining => Tone::Wary,
        Status::Disabled => Tone::Faint,
    };
    Cell::from(&status).tone(tone)
}

/// As the file has it.
pub(super) fn algorithm(algorithm: Algorithm) -> String {
    serde_json::to_value(algorithm).ok().and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default()
}

/// Text for a path's segment or a query's value.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_cannot_have_is_encoded() {
        for (text, expected) in [("server-1.a_b~", "server-1.a_b~"), ("a/b?é", "a%2Fb%3F%C3%A9"), ("", "")] {
            assert_eq!(encoded(text), expected);
        }
    }

    #[test]
    fn algorithms_are_named_as_in_the_file() {
        assert_eq!(algorithm(Algorithm::LeastConnections), "least-connections");
    }
}
