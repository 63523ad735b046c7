//! `lb plan`: what a configuration would change in the running balancer.

mod certificates;
mod shares;

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Write};
use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

pub(super) use self::shares::{ShareChange, share_changes};
use crate::cli::api::{Api, CertificatesReply, ConfigReply, QueryError, ServerReply, ServersReply};
use crate::cli::check::{CheckFormat, print_invalid};
use crate::cli::output::{count, print_json, print_problems};
use crate::cli::table::{Align, Cell, TextTable, Tone, percent};
use crate::config::diff::{Change, diff, hidden_credentials};
use crate::config::guard::guards;
use crate::config::notes::{Note, unrouted};
use crate::config::problem::{Problem, annotation};
use crate::config::units::format_duration;
use crate::config::{Address, Config, HealthKind, HoldThen};
use crate::control::reload::reader::env;
use crate::control::reload::source::{LoadedConfig, Source};
use crate::live::route::{EarlierRoutes, RouteTable};

/// With more servers than this, the text shows only those whose share changes, and at most this many of them.
const MAX_SERVERS: usize = 40;

#[derive(Debug)]
struct Plan {
    admin: Address,
    running: ConfigReply,
    hash: String,
    /// Worded as in the record.
    changes: Vec<String>,
    /// Why the balancer would reject the configuration.
    problems: Vec<Problem>,
    shares: Vec<ShareChange>,
    /// Consequences that the changes do not show.
    notes: Vec<String>,
    /// Whether there may be changes that are not shown.
    hides: bool,
}

/// `/api/config`, with the values of the configuration.
#[derive(Deserialize)]
pub(super) struct RunningConfig {
    #[serde(flatten)]
    reply: ConfigReply,
    #[serde(deserialize_with = "running_config")]
    pub(super) config: Config,
}

fn running_config<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Config, D::Error> {
    Config::from_json(&Value::deserialize(deserializer)?, &env).map_err(D::Error::custom)
}

/// Writes to `out` what a configuration would change in the running balancer. Returns whether the balancer would accept it.
///
/// # Errors
/// If the balancer does not respond or rejects a query. If `out` cannot be written to, that is the inner error.
pub(super) fn plan(
    (source, loaded): (Source, LoadedConfig),
    api: &Api,
    format: CheckFormat,
    colored: bool,
    out: &mut dyn Write,
) -> Result<io::Result<bool>, QueryError> {
    let path = source.path();
    let config = match loaded.result {
        Ok(config) => config,
        Err(problems) => {
            return Ok(print_invalid((path, loaded.sources), problems, format, colored, out).map(|()| false));
        }
    };
    let RunningConfig { reply: running, config: old } = api.get("/api/config")?;
    let ServersReply { servers } = api.get("/api/servers")?;
    let CertificatesReply { certificates } = api.get("/api/certificates")?;
    let (certificate_changes, missing) = certificates::changes(&config, &loaded.sources, &certificates);
    let changes = if running.hash == loaded.sources.hash { Vec::new() } else { diff(&old, &config) };
    let shares = share_changes(&servers, &config);
    let hidden: Vec<&str> = match running.hash == loaded.sources.hash {
        true => Vec::new(),
        false => hidden_credentials(&old, &config).collect(),
    };
    let plan = Plan {
        admin: api.at().clone(),
        problems: if changes.is_empty() { Vec::new() } else { guards(&loaded.sources.files, Some(&old), &config) },
        notes: {
            let unmatched = loaded.sources.unmatched.iter().map(|include| Note::unmatched(include).to_string());
            let hidden = hidden.iter().map(|key| {
                format!("whether the credentials in {key} change is unknown, because the balancer does not show them")
            });
            let others = notes(&running, (&old, &config), &changes, &servers, &shares);
            unmatched.chain(hidden).chain(others).chain(missing).collect()
        },
        hides: !hidden.is_empty(),
        shares,
        changes: changes.iter().map(ToString::to_string).chain(certificate_changes).collect(),
        running,
        hash: loaded.sources.hash,
    };
    let written = match format {
        CheckFormat::Text => plan.text(path, colored, out),
        CheckFormat::Json => plan.json(path, out),
        CheckFormat::Github => plan.github(path, out),
    };
    Ok(written.map(|()| plan.problems.is_empty()))
}

impl Plan {
    fn text(&self, path: &Path, colored: bool, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}: {}", path.display(), self.headline())?;
        for change in &self.changes {
            writeln!(out, "  {change}")?;
        }
        if !self.changes.is_empty() {
            let shows_all = self.shares.len() <= MAX_SERVERS;
            let shown: Vec<&ShareChange> =
                self.shares.iter().filter(|share| shows_all || share.is_visible()).take(MAX_SERVERS).collect();
            if !shown.is_empty() {
                writeln!(out, "\nshare of new requests, with the current health of the servers:")?;
                out.write_all(table(&shown).render("  ", colored).as_bytes())?;
            }
            let hidden = self.shares.len() - shown.len();
            if hidden > 0 {
                writeln!(out, "  … and {}", count(hidden, "more server"))?;
            }
        }
        for note in &self.notes {
            writeln!(out, "\nnote: {note}")?;
        }
        if !self.problems.is_empty() {
            writeln!(out)?;
            print_problems(&self.problems, colored, out)?;
            writeln!(out, "{}: the balancer would reject it", path.display())?;
        }
        Ok(())
    }

    fn json(&self, path: &Path, out: &mut dyn Write) -> io::Result<()> {
        let value = json!({
            "file": path,
            "hash": self.hash,
            "fine": self.problems.is_empty(),
            "running": {"admin": self.admin, "generation": self.running.generation, "hash": self.running.hash},
            "changes": self.changes,
            "problems": self.problems.iter().map(Problem::to_json).collect::<Vec<_>>(),
            "servers": self.shares,
            "notes": self.notes,
        });
        print_json(&value, out)
    }

    fn github(&self, path: &Path, out: &mut dyn Write) -> io::Result<()> {
        let mut text = vec![self.headline()];
        text.extend(self.changes.iter().cloned());
        let visible = self.shares.iter().filter(|share| !self.changes.is_empty() && share.is_visible());
        text.extend(visible.take(MAX_SERVERS).map(|share| format!("share of {share}")));
        writeln!(out, "{}", annotation("notice", path, "lb plan", &text.join("\n")))?;
        for note in &self.notes {
            writeln!(out, "{}", annotation("warning", path, "lb plan", note))?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(out, "{}", problem.to_github()))
    }

    fn headline(&self) -> String {
        let running = format!("running at {} (generation {})", self.admin, self.running.generation);
        match self.changes.len() {
            0 if self.hash == self.running.hash => format!("no changes: already {running}"),
            0 if self.hides => format!("no visible changes to the configuration {running}"),
            0 => format!("only the formatting differs from the configuration {running}"),
            changes => format!("{} to the configuration {running}", count(changes, "change")),
        }
    }
}

fn table(shares: &[&ShareChange]) -> TextTable {
    let mut table = TextTable::new(&[
        ("SERVER", Align::Left),
        ("BEFORE", Align::Right),
        ("AFTER", Align::Right),
        ("", Align::Left),
    ]);
    let cell = |share: Option<f64>| Cell::from(&share.map_or_else(|| "-".to_owned(), percent));
    for share in shares {
        let tone = if share.is_visible() { Tone::Warning } else { Tone::Plain };
        let name = Cell::from(&format!("{}/{}", share.pool, share.name));
        let note = Cell::from(share.note.unwrap_or_default()).tone(Tone::Faint);
        table.row([name, cell(share.before), cell(share.after).tone(tone), note], None);
    }
    table
}

/// The balancer's warnings, and consequences that the changes do not show.
fn notes(
    running: &ConfigReply,
    (old, new): (&Config, &Config),
    changes: &[Change],
    servers: &[ServerReply],
    shares: &[ShareChange],
) -> Vec<String> {
    let mut notes = running.remarks();
    if changes.is_empty() {
        return notes;
    }
    let binds_address = |change: &Change| match change {
        Change::ListenerAdded(_) | Change::ListenerAddress { .. } => true,
        Change::Setting { key, .. } => key == "admin.address",
        _ => false,
    };
    if changes.iter().any(binds_address) {
        notes.push("whether the new addresses can be bound is known only when the balancer applies this".to_owned());
    }
    let existing: HashSet<_> = servers.iter().map(|server| (&*server.pool, &*server.name, &server.address)).collect();
    let served: HashSet<&str> =
        shares.iter().filter(|share| share.after.is_some_and(|after| after > 0.0)).map(|share| &*share.pool).collect();
    for pool in &new.pools {
        let name = pool.name.as_str();
        let mut eligible = pool.servers.iter().filter(|server| server.enabled && server.weight > 0);
        let all_new = eligible.all(|server| !existing.contains(&(name, &*server.name, &server.address)));
        if new.routes.iter().all(|route| route.pool.name() != name) {
            notes.push(unrouted(name));
        } else if !served.contains(name) {
            notes.push(format!("no server of pool {name} would be available: its requests would get 503"));
        } else if all_new && pool.health.kind != HealthKind::None {
            notes.extend(hold_note(name, old, new, servers));
        }
    }
    notes
}

/// The note that the servers of a new pool, or all new servers of a pool, wait for their first check while others serve.
fn hold_note(pool: &str, old: &Config, new: &Config, servers: &[ServerReply]) -> Option<String> {
    let table = RouteTable::new(&old.routes);
    let mut earlier = EarlierRoutes::new(&old.routes, &table, &new.routes);
    let serves = |name: &&str| servers.iter().any(|server| server.pool == *name && server.share > 0.0);
    let routes = new.routes.iter().enumerate().filter(|(_, route)| route.pool.name() == pool);
    let before = routes.filter_map(|(place, route)| Some(earlier.of(place, route)?.pool.name()));
    let from: BTreeSet<&str> = before.filter(serves).collect();
    let old_ones = match Vec::from_iter(from)[..] {
        [] => return None,
        [name] if name == pool => "the old ones".to_owned(),
        ref names => format!("the servers of pool {}", names.join(" and ")),
    };
    let limit = match new.reload.hold_then {
        HoldThen::Keep => String::new(),
        HoldThen::Switch => format!(", at most {}", format_duration(new.reload.hold)),
    };
    Some(format!("all servers of pool {pool} are new: {old_ones} serve until a new one passes its first check{limit}"))
}
