//! `lb status`: what is running, the last reload, and each server's share of the requests, on one screen.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::thread::sleep;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::output::{OutputOptions, count};
use super::server::{algorithm, status_cell};
use crate::cli::api::{
    Api, ConfigReply, ListenersReply, PoolReply, PoolsReply, QueryError, ReloadReply, ReloadsReply, ServerReply,
    ServersReply,
};
use crate::cli::table::{Align, Cell, TextTable, Tone, paint, percent};
use crate::live::reloads::Outcome;

/// The time between two refreshes of `--watch`.
const REFRESH: Duration = Duration::from_secs(1);
/// The maximum number of servers per pool on a screen.
const MAX_SERVERS: usize = 50;

/// Writes the status of the balancer to `out`.
///
/// # Errors
/// If the balancer does not respond. The inner error is a failure to write to `out`.
pub(super) fn status(api: &Api, options: OutputOptions, out: &mut dyn Write) -> Result<io::Result<()>, QueryError> {
    Ok(draw(&render(api, options)?, false, out))
}

/// Writes the status every second until `out` is closed; if `in_place`, over the previous screen. If the balancer does
/// not respond, writes the error and continues.
pub(super) fn watch(api: &Api, options: OutputOptions, in_place: bool, out: &mut dyn Write) -> io::Result<()> {
    loop {
        let text = render(api, options).unwrap_or_else(|error| format!("lb: {error}\n"));
        draw(&text, in_place, out)?;
        sleep(REFRESH);
    }
}

fn render(api: &Api, options: OutputOptions) -> Result<String, QueryError> {
    let report = StatusReport::fetch(api)?;
    Ok(if options.json { format!("{:#}\n", report.json) } else { report.text(api, options.colored) })
}

/// Writes a screen. If `in_place`, overwrites line by line and then clears the rest, to avoid flicker.
fn draw(text: &str, in_place: bool, out: &mut dyn Write) -> io::Result<()> {
    match in_place {
        true => write!(out, "\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))?,
        false => out.write_all(text.as_bytes())?,
    }
    out.flush()
}

struct StatusReport {
    /// The whole report as the API's JSON.
    json: Value,
    config: ConfigReply,
    last_reload: Option<ReloadReply>,
    listeners: ListenersReply,
    pools: Vec<PoolReply>,
    servers: Vec<ServerReply>,
}

impl StatusReport {
    fn fetch(api: &Api) -> Result<Self, QueryError> {
        let get = |path: &str| api.get::<Value>(path);
        let (mut config, reloads) = (get("/api/config")?, get("/api/reloads?limit=1")?);
        let (listeners, pools, servers) = (get("/api/listeners")?, get("/api/pools")?, get("/api/servers")?);
        if let Value::Object(config) = &mut config {
            // The status leaves out the configuration's values.
            config.remove("config");
        }
        let json = json!({
            "admin": api.at(),
            "config": config,
            "last_reload": reloads["reloads"][0],
            "listeners": listeners["listeners"],
            "pools": pools["pools"],
            "servers": servers["servers"],
        });
        let reloads: ReloadsReply = parse(api, &reloads)?;
        let pools: PoolsReply = parse(api, &pools)?;
        let servers: ServersReply = parse(api, &servers)?;
        Ok(Self {
            config: parse(api, &config)?,
            last_reload: reloads.reloads.into_iter().next(),
            listeners: parse(api, &listeners)?,
            pools: pools.pools,
            servers: servers.servers,
            json,
        })
    }

    fn text(&self, api: &Api, colored: bool) -> String {
        let ConfigReply { generation, hash, .. } = &self.config;
        let short_hash = hash.get(..12).unwrap_or(hash);
        let mut text =
            format!("generation {generation} at {}, applied {} ago, hash {short_hash}\n", api.at(), self.config.age());
        for remark in self.config.remarks() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}", paint(&format!("warning: {remark}"), Tone::Warning, colored));
        }
        if let Some(reload) = &self.last_reload {
            text += &last_reload(reload, colored);
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
        let is_draining = |server: &&ServerReply| !self.pools.iter().any(|pool| pool.name == server.pool);
        let draining: Vec<&ServerReply> = self.servers.iter().filter(is_draining).collect();
        if !draining.is_empty() {
            let _ = write!(text, "\nservers of removed pools\n{}", table(&draining, colored));
        }
        text
    }

    fn pool(&self, pool: &PoolReply, colored: bool) -> String {
        let servers: Vec<&ServerReply> = self.servers.iter().filter(|server| server.pool == pool.name).collect();
        let requests = usize::try_from(pool.requests_total).unwrap_or(usize::MAX);
        let (open, algorithm) = (pool.active_requests, algorithm(pool.algorithm));
        let mut text = format!("\npool {}: {algorithm}, {}, {open} open", pool.name, count(requests, "request"));
        if pool.holding {
            let late = "old servers serve, because no new one has come up in time";
            let holding = if pool.overdue { late } else { "old servers serve until a new one is up" };
            text += &format!(", {}", paint(holding, Tone::Warning, colored));
        }
        if !pool.routed {
            text += &format!(", {}", paint("no route leads to it", Tone::Warning, colored));
        }
        if !pool.ready {
            text += &format!(", {}", paint("no server available", Tone::Bad, colored));
        }
        text.push('\n');
        text += &table(&servers, colored);
        text
    }
}

fn last_reload(reload: &ReloadReply, colored: bool) -> String {
    let ReloadReply { generation, outcome, problems, changes, .. } = reload;
    let age = reload.age();
    match outcome {
        Outcome::Rejected | Outcome::Pending => {
            let outcome = outcome.label();
            let headline = format!("last reload {outcome} {age} ago; still serving generation {generation}:");
            let mut text = paint(&headline, Tone::Bad, colored) + "\n";
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
    let mut table = TextTable::new(&[
        ("SERVER", Left),
        ("ADDRESS", Left),
        ("STATUS", Left),
        ("WEIGHT", Right),
        ("SHARE", Right),
        ("OPEN", Right),
        ("REQUESTS", Right),
        ("SINCE", Right),
    ]);
    for server in servers.iter().take(MAX_SERVERS) {
        let cells = [
            Cell::from(&server.name),
            Cell::from(&server.address),
            status_cell(server.status),
            Cell::from(&server.weight),
            Cell::from(&percent(server.share)),
            Cell::from(&server.active_requests),
            Cell::from(&server.requests_total),
            Cell::from(&server.age()),
        ];
        let failure = server.last_check.as_ref().and_then(|check| Some((check.error.as_ref()?, check.age())));
        let failure = failure.map(|(error, age)| format!("last check failed {age} ago: {error}"));
        let ejection = server.ejected.as_ref().map(|ejection| format!("ejected: {}", ejection.error));
        table.row(cells, ejection.or(failure));
    }
    let mut text = table.render("  ", colored);
    if servers.len() > MAX_SERVERS {
        text += &format!("  … and {}; see `lb server list`\n", count(servers.len() - MAX_SERVERS, "more server"));
    }
    text
}

fn parse<T: DeserializeOwned>(api: &Api, value: &Value) -> Result<T, QueryError> {
    T::deserialize(value).map_err(|error| QueryError::Unexpected(api.at().clone(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_overwrites_the_previous_one() {
        let drawn = |in_place| {
            let mut out = Vec::new();
            draw("ab\nc\n", in_place, &mut out).expect("written");
            String::from_utf8(out).expect("text")
        };
        assert_eq!(drawn(false), "ab\nc\n");
        assert_eq!(drawn(true), "\x1b[Hab\x1b[K\nc\x1b[K\n\x1b[J");
    }
}
