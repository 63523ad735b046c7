//! `lb server list`, `show` and `random`: servers of the running balancer as tables.

use std::io::{self, Write};

use clap::Subcommand;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::Deserialize as _;
use serde_json::Value;

use crate::cli::api::{Api, QueryError, ServerReply};
use crate::cli::output::print_json;
use crate::cli::table::{Align, Cell, TextTable, Tone, percent};
use crate::config::Algorithm;
use crate::live::pool::Status;

/// Everything but the unreserved characters of RFC 3986, section 2.3.
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[derive(Debug, Subcommand)]
pub(super) enum ServerQuery {
    /// List all servers, or those of a pool
    List {
        /// Only servers of this pool
        #[arg(long)]
        pool: Option<String>,
        /// Print the API's response as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one server
    Show {
        /// Name of the server
        name: String,
        /// Pool of the server, if several pools have one of that name
        #[arg(long)]
        pool: Option<String>,
        /// Print the API's response as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one of the servers that receive requests, each equally likely
    Random {
        /// Only servers of this pool
        #[arg(long)]
        pool: Option<String>,
        /// Print the API's response as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Writes the response to `out`.
///
/// # Errors
/// If the balancer does not respond or rejects the query. If `out` cannot be written to, that is the inner error.
pub(super) fn server(
    query: &ServerQuery,
    api: &Api,
    colored: bool,
    out: &mut dyn Write,
) -> Result<io::Result<()>, QueryError> {
    let (path, pool, as_json) = match query {
        ServerQuery::List { pool, json } => ("/api/servers".to_owned(), pool, json),
        ServerQuery::Show { name, pool, json } => (format!("/api/servers/{}", percent_encoded(name)), pool, json),
        ServerQuery::Random { pool, json } => ("/api/random".to_owned(), pool, json),
    };
    let pool = pool.as_ref().map_or_else(String::new, |pool| format!("?pool={}", percent_encoded(pool)));
    let response: Value = api.get(&format!("{path}{pool}"))?;
    if *as_json {
        return Ok(print_json(&response, out));
    }
    let unexpected = |error: serde_json::Error| QueryError::Unexpected(api.at().clone(), error.to_string());
    let table = match response.get("servers") {
        Some(servers) => list(&Vec::deserialize(servers).map_err(unexpected)?),
        None => details(&ServerReply::deserialize(&response).map_err(unexpected)?),
    };
    Ok(out.write_all(table.render("", colored).as_bytes()))
}

fn list(servers: &[ServerReply]) -> TextTable {
    use Align::{Left, Right};
    let mut table = TextTable::new(&[
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
            status_cell(server.status),
            Cell::from(&server.weight),
            Cell::from(&percent(server.share)),
            Cell::from(&server.active_requests),
            Cell::from(&server.requests_total),
        ];
        table.row(cells, None);
    }
    table
}

fn details(server: &ServerReply) -> TextTable {
    let mut table = TextTable::new(&[("", Align::Left), ("", Align::Left)]);
    let mut row = |name: &str, value: Cell| table.row([Cell::from(name), value], None);
    row("name", Cell::from(&server.name));
    row("pool", Cell::from(&server.pool));
    row("address", Cell::from(&server.address));
    row("status", status_cell(server.status));
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
        let result = match &check.error {
            None => Cell::from(&format!("passed {age} ago in {milliseconds:.1} ms")),
            Some(error) => Cell::from(&format!("failed {age} ago: {error}")).tone(Tone::Bad),
        };
        row("last check", result);
        if let Some(hint) = &check.hint {
            row("hint", Cell::from(hint));
        }
    }
    table
}

/// A status in its colour.
pub(super) fn status_cell(status: Status) -> Cell {
    let tone = match status {
        Status::Up => Tone::Good,
        Status::Down => Tone::Bad,
        Status::Checking | Status::Draining => Tone::Warning,
        Status::Disabled => Tone::Faint,
    };
    Cell::from(&status).tone(tone)
}

/// The name of an algorithm in the configuration.
pub(super) fn algorithm(algorithm: Algorithm) -> String {
    serde_json::to_value(algorithm).ok().and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default()
}

/// Encodes a path segment or a query value.
fn percent_encoded(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, &RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_with_a_meaning_in_urls_are_encoded() {
        for (text, expected) in [("server-1.a_b~", "server-1.a_b~"), ("a/b?é", "a%2Fb%3F%C3%A9"), ("", "")] {
            assert_eq!(percent_encoded(text).to_string(), expected);
        }
    }

    #[test]
    fn algorithms_are_named_as_in_the_file() {
        assert_eq!(algorithm(Algorithm::LeastConnections), "least-connections");
    }
}
