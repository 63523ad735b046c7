//! `lb status`: what runs, what became of the last edit, and who gets which requests, on one screen.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::thread::sleep;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::check::count;
use super::server::health;
use crate::cli::api::{
    Api, ConfigReply, ListenersReply, PoolReply, PoolsReply, QueryError, ReloadReply, ReloadsReply, ServerReply,
    ServersReply,
};
use crate::cli::table::{Align, Cell, Table, Tone, paint, percent};
use crate::live::reloads::Outcome;

/// Between two pictures of `--watch`.
const PACE: Duration = Duration::from_secs(1);
/// As many servers of a pool are shown to people; the others are counted.
const SHOWN: usize = 50;
/// How the status is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// For programs.
    pub(super) json: bool,
    /// In colour.
    pub(super) colored: bool,
    /// Over and over, in place.
    pub(super) in_place: bool,
}

/// Writes the status of the balancer that `api` asks to `out`.
///
/// # Errors
/// When it does not answer; an `out` that cannot be written to is told as [`Ok`] of an error.
pub(super) fn status(api: &Api, manner: Manner, out: &mut dyn Write) -> Result<io::Result<()>, QueryError> {
    let status = Status::ask(api)?;
    let text = if manner.json { format!("{:#}\n", status.json) } else { status.text(api, manner.colored) };
    Ok(draw(&text, manner, out))
}

/// The same every second, until nobody reads it any more. A balancer that does not answer is said
/// and asked again.
pub(super) fn watch(api: &Api, manner: Manner, out: &mut dyn Write) -> io::Result<()> {
    loop {
        match status(api, manner, out) {
            Ok(written) => written?,
            Err(error) => draw(&format!("lb: {error}\n"), manner, out)?,
        }
        sleep(PACE);
    }
}

/// Writes a picture, on a terminal over the one before: from its first line on, line by line, and nothing below.
fn draw(text: &str, manner: Manner, out: &mut dyn Write) -> io::Result<()> {
    match manner.in_place {
        true => write!(out, "\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))?,
        false => out.write_all(text.as_bytes())?,
    }
    out.flush()
}

struct Status {
    /// All of it, as the balancer told it.
    json: Value,
    in_force: ConfigReply,
    last: Option<ReloadReply>,
    listeners: ListenersReply,
    pools: Vec<PoolReply>,
    servers: Vec<ServerReply>,
}

impl Status {
    fn ask(api: &Api) -> Result<Self, QueryError> {
        let ask = |path: &str| api.get::<Value>(path);
        let (mut config, reloads) = (ask("/api/config")?, ask("/api/reloads?limit=1")?);
        let (listeners, pools, servers) = (ask("/api/listeners")?, ask("/api/pools")?, ask("/api/servers")?);
        if let Value::Object(config) = &mut config {
            // `/api/config` has them; this is about how things are.
            config.remove("config");
        }
        let last: ReloadsReply = typed(api, &reloads)?;
        let pools_typed: PoolsReply = typed(api, &pools)?;
        let servers_typed: ServersReply = typed(api, &servers)?;
        let json = json!({
            "admin": api.at(),
            "config": config,
            "last_reload": reloads["reloads"][0],
            "listeners": listeners["listeners"],
            "pools": pools["pools"],
            "servers": servers["servers"],
        });
        Ok(Self {
            in_force: typed(api, &config)?,
            last: last.reloads.into_iter().next(),
            listeners: typed(api, &listeners)?,
            pools: pools_typed.pools,
            servers: servers_typed.servers,
            json,
        })
    }

    fn text(&self, api: &Api, colored: bool) -> String {
        let ConfigReply { generation, hash, .. } = &self.in_force;
        let short = hash.get(..12).unwrap_or(hash);
        // Writing to a string does not fail.
        let mut text =
            format!("generation {generation} at {}, applied {} ago, hash {short}\n", api.at(), self.in_force.age());
        for remark in self.in_force.remarks() {
            let _ = writeln!(text, "{}", paint(&format!("warning: {remark}"), Tone::Wary, colored));
        }
        if let Some(last) = &self.last {
            text += &last_reload(last, colored);
        }
        for listener in &self.listeners.listeners {
            let address = listener.address.to_string();
            let name = if listener.name == address { address } else { format!("{} ({address})", listener.name) };
            let clients = usize::try_from(listener.connections).unwrap_or(usize::MAX);
            let _ = writeln!(text, "listener {name}: {}", count(clients, "client connection"));
        }
        for pool in &self.pools {
            text += &self.pool(pool, colored);
        }
        let named = |server: &&ServerReply| !self.pools.iter().any(|pool| pool.name == server.pool);
        let leaving: Vec<&ServerReply> = self.servers.iter().filter(named).collect();
        if !leaving.is_empty() {
            let _ = write!(text, "\nof pools that are gone\n{}", table(&leaving, colored));
        }
        text
    }

    fn pool(&self, pool: &PoolReply, colored: bool) -> String {
        let servers: Vec<&ServerReply> = self.servers.iter().filter(|server| server.pool == pool.name).collect();
        let (open, total) = (pool.active_requests, pool.requests_total);
        let name = crate::cli::server::algorithm(pool.algorithm);
        let mut text = format!("\npool {}: {name}, {open} open of {total} requests", pool.name);
        if pool.holding {
            text += &format!(", {}", paint("holding its old servers", Tone::Wary, colored));
        }
        if !pool.ready {
            text += &format!(", {}", paint("no server takes requests", Tone::Bad, colored));
        }
        text.push('\n');
        text += &table(&servers, colored);
        text
    }
}

fn last_reload(last: &ReloadReply, colored: bool) -> String {
    let ReloadReply { generation, outcome, problems, changes, .. } = last;
    let age = last.age();
    match outcome {
        Outcome::Rejected => {
            let words = format!("last reload rejected {age} ago; generation {generation} stays in force:");
            let mut text = paint(&words, Tone::Bad, colored) + "\n";
            problems.iter().for_each(|problem| text += &format!("  {problem}\n"));
            text
        }
        Outcome::Unchanged => format!("last reload {age} ago: unchanged\n"),
        Outcome::Applied if changes.is_empty() => String::new(),
        Outcome::Applied => format!("last reload {age} ago: {}\n", count(changes.len(), "change")),
    }
}

fn table(servers: &[&ServerReply], colored: bool) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("SERVER", Left),
        ("ADDRESS", Left),
        ("STATUS", Left),
        ("WEIGHT", Right),
        ("SHARE", Right),
        ("OPEN", Right),
        ("REQUESTS", Right),
        ("SINCE", Right),
    ]);
    for server in servers.iter().take(SHOWN) {
        let cells = [
            Cell::from(&server.name),
            Cell::from(&server.address),
            health(server.status),
            Cell::from(&server.weight),
            Cell::from(&percent(server.share)),
            Cell::from(&server.active_requests),
            Cell::from(&server.requests_total),
            Cell::from(&server.age()),
        ];
        let failed = server.last_check.as_ref().and_then(|check| Some((check.error.as_ref()?, check.age())));
        let failed = failed.map(|(error, age)| format!("last check failed {age} ago: {error}"));
        let ejected = server.ejected.as_ref().map(|ejection| format!("ejected: {}", ejection.error));
        table.row(cells, ejected.or(failed));
    }
    let mut text = table.draw("  ", colored);
    if servers.len() > SHOWN {
        text += &format!("  … and {}: see `lb server list`\n", count(servers.len() - SHOWN, "further server"));
    }
    text
}

fn typed<T: DeserializeOwned>(api: &Api, value: &Value) -> Result<T, QueryError> {
    T::deserialize(value).map_err(|error| QueryError::Unexpected(api.at().clone(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_covers_the_one_before() {
        let drawn = |in_place| {
            let mut out = Vec::new();
            draw("ab\nc\n", Manner { json: false, colored: false, in_place }, &mut out).expect("written");
            String::from_utf8(out).expect("text")
        };
        assert_eq!(drawn(false), "ab\nc\n");
        assert_eq!(drawn(true), "\x1b[Hab\x1b[K\nc\x1b[K\n\x1b[J");
    }
}
