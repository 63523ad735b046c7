//! `lb status`: what is running, the last reload, and each server's share of the requests, on one screen.

use std::fmt::{Display, Write as _};
use std::io::{self, Write};
use std::pin::pin;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::output::{OutputOptions, count};
use super::server::{algorithm, status_cell};
use crate::cli::api::{
    Api, CertificateReply, CertificatesReply, ConfigReply, ListenersReply, PoolReply, PoolsReply, QueryError,
    ReloadReply, ReloadsReply, ServerReply, ServersReply, get,
};
use crate::cli::table::{Align, Cell, TextTable, Tone, paint, percent};
use crate::config::Address;
use crate::live::reloads::Outcome;
use crate::tls::certificate::Validity;

/// The time between two refreshes of `--watch`.
const REFRESH: Duration = Duration::from_secs(1);
/// How long a refresh may take before its screen says so.
const LATE: Duration = Duration::from_secs(4);
/// The maximum number of servers per pool on a screen.
const MAX_SERVERS: usize = 50;
/// The maximum number of certificates.
const MAX_CERTIFICATES: usize = 20;

/// Writes the status of the balancer to `out`.
///
/// # Errors
/// If the balancer does not respond. The inner error is a failure to write to `out`.
pub(super) fn status(api: &Api, options: OutputOptions, out: &mut dyn Write) -> Result<io::Result<()>, QueryError> {
    Ok(draw(&render(api, options)?, false, out))
}

/// Writes the status every second until `out` is closed; if `in_place`, over the previous screen. If the balancer does
/// not respond, says so and continues.
pub(super) fn watch(api: &Api, colored: bool, in_place: bool, out: &mut dyn Write) -> io::Result<()> {
    let mut screen = Screen { api, colored, in_place, out, last: None };
    loop {
        match api.run(screen.fetch())? {
            Ok(report) => screen.show(report)?,
            Err(error) => screen.show_stale(&error)?,
        }
        sleep(REFRESH);
    }
}

fn render(api: &Api, options: OutputOptions) -> Result<String, QueryError> {
    let report = api.run(StatusReport::fetch(api.at()))?;
    Ok(if options.json { format!("{:#}\n", report.json) } else { report.text(api, options.colored) })
}

/// The output of `--watch`. It never shows figures as current that are not.
struct Screen<'a> {
    api: &'a Api,
    colored: bool,
    /// Whether each screen overwrites the previous one.
    in_place: bool,
    out: &'a mut dyn Write,
    /// The newest report, and when it came.
    last: Option<(StatusReport, SystemTime, Instant)>,
}

impl Screen<'_> {
    /// Fetches a report. Says that the figures on the screen are stale, if that takes longer than it should.
    async fn fetch(&mut self) -> io::Result<Result<StatusReport, QueryError>> {
        let api = self.api;
        let mut fetching = pin!(StatusReport::fetch(api.at()));
        let mut pause = LATE;
        loop {
            if let Ok(fetched) = timeout(pause, &mut fetching).await {
                return Ok(fetched);
            }
            // Not each time in a pipe, where the lines stay.
            if self.in_place || pause == LATE {
                self.show_stale(&format_args!("no response from {}", api.at()))?;
            }
            pause = REFRESH;
        }
    }

    fn show(&mut self, report: StatusReport) -> io::Result<()> {
        let text = report.text(self.api, self.colored);
        self.last = Some((report, SystemTime::now(), Instant::now()));
        draw(&text, self.in_place, self.out)
    }

    /// Shows why there are no newer figures, since when and, if they would be overwritten, the last ones.
    fn show_stale(&mut self, reason: &dyn Display) -> io::Result<()> {
        let mut text = match &self.last {
            None => format!("lb: {reason}"),
            Some((_, at, since)) => {
                let at = humantime::format_rfc3339_seconds(*at).to_string();
                let clock = at.get(11..19).unwrap_or(&at);
                let age = humantime::format_duration(Duration::from_secs(since.elapsed().as_secs()));
                format!("lb: no news since {clock} UTC, {age} ago: {reason}")
            }
        };
        text = paint(&text, Tone::Bad, self.colored) + "\n";
        if let Some((report, ..)) = self.last.as_ref().filter(|_| self.in_place) {
            for line in report.text(self.api, false).lines() {
                text += &paint(line, Tone::Faint, self.colored);
                text.push('\n');
            }
        }
        draw(&text, self.in_place, self.out)
    }
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
    certificates: Vec<CertificateReply>,
    pools: Vec<PoolReply>,
    servers: Vec<ServerReply>,
}

impl StatusReport {
    async fn fetch(at: &Address) -> Result<Self, QueryError> {
        let get = async |path: &str| get::<Value>(at, path).await;
        let (mut config, reloads) = (get("/api/config").await?, get("/api/reloads?limit=1").await?);
        let (listeners, certificates) = (get("/api/listeners").await?, get("/api/certificates").await?);
        let (pools, servers) = (get("/api/pools").await?, get("/api/servers").await?);
        if let Value::Object(config) = &mut config {
            // The status leaves out the configuration's values.
            config.remove("config");
        }
        let json = json!({
            "admin": at,
            "config": config,
            "last_reload": reloads["reloads"][0],
            "listeners": listeners["listeners"],
            "certificates": certificates["certificates"],
            "pools": pools["pools"],
            "servers": servers["servers"],
        });
        let reloads: ReloadsReply = parse(at, &reloads)?;
        let pools: PoolsReply = parse(at, &pools)?;
        let servers: ServersReply = parse(at, &servers)?;
        let CertificatesReply { certificates } = parse(at, &certificates)?;
        Ok(Self {
            certificates,
            config: parse(at, &config)?,
            last_reload: reloads.reloads.into_iter().next(),
            listeners: parse(at, &listeners)?,
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
        text += &certificates(&self.certificates, colored);
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

/// The certificates that listeners show, if there are any.
fn certificates(certificates: &[CertificateReply], colored: bool) -> String {
    use Align::Left;
    if certificates.is_empty() {
        return String::new();
    }
    let mut table =
        TextTable::new(&[("CERTIFICATE", Left), ("NAMES", Left), ("EXPIRES", Left), ("KEY", Left), ("", Left)]);
    for certificate in certificates.iter().take(MAX_CERTIFICATES) {
        let (note, tone) = match certificate.validity {
            Validity::Valid if certificate.default => ("default", Tone::Plain),
            Validity::Valid => ("", Tone::Plain),
            Validity::ExpiresSoon => ("expires soon", Tone::Warning),
            Validity::NotYetValid => ("not valid yet", Tone::Warning),
            Validity::Expired => ("expired", Tone::Bad),
        };
        let day = certificate.not_after.get(..10).unwrap_or(&certificate.not_after);
        let cells = [
            Cell::from(&certificate.file),
            Cell::from(&certificate.names.join(" ")),
            Cell::from(&day).tone(tone),
            Cell::from(&certificate.key_type),
            Cell::from(&note).tone(tone),
        ];
        table.row(cells, None);
    }
    let mut text = format!("\n{}", table.render("  ", colored));
    if certificates.len() > MAX_CERTIFICATES {
        text += &format!("  … and {}\n", count(certificates.len() - MAX_CERTIFICATES, "more certificate"));
    }
    text
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

fn parse<T: DeserializeOwned>(at: &Address, value: &Value) -> Result<T, QueryError> {
    T::deserialize(value).map_err(|error| QueryError::Unexpected(at.clone(), error.to_string()))
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
