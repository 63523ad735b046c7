//! `lb plan`: what a file would change in the balancer that runs, asked of it and decided here.

mod shares;

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::Path;

use serde::Deserialize;
use serde_json::json;

pub(super) use self::shares::{Portion, portions};
use crate::cli::api::{Api, InForce, QueryError, Server, Servers};
use crate::cli::check::{CheckFormat, count, json, load, pictures, refused};
use crate::cli::table::{Align, Cell, Table, Tone, percent};
use crate::config::diff::{Change, diff};
use crate::config::guard::guards;
use crate::config::problem::{Problem, annotation};
use crate::config::units::format_duration;
use crate::config::{Address, Config, HealthKind};

/// Of more servers than this only those are shown to people for whom something changes.
const ALL: usize = 40;

/// What a file would do to the balancer that runs.
#[derive(Debug)]
struct Plan {
    at: Address,
    running: InForce,
    hash: String,
    /// In the words of the record.
    changes: Vec<String>,
    /// Why the balancer would refuse it.
    problems: Vec<Problem>,
    portions: Vec<Portion>,
    /// What else is to be known.
    notes: Vec<String>,
}

/// `/api/config`, with the values.
#[derive(Deserialize)]
pub(super) struct Running {
    #[serde(flatten)]
    in_force: InForce,
    pub(super) config: Config,
}

/// Writes to `out` what the file at `path` (`-` is standard input) would change in the balancer that
/// `api` asks. Whether it would be taken.
///
/// # Errors
/// When the balancer does not answer; an `out` that cannot be written to is told as [`Ok`] of an error.
pub(super) fn plan(
    path: &Path,
    api: &Api,
    format: CheckFormat,
    colored: bool,
    out: &mut dyn Write,
) -> Result<io::Result<bool>, QueryError> {
    let (source, loaded) = load(path);
    let path = source.path();
    let config = match loaded.result {
        Ok(config) => config,
        Err(problems) => return Ok(refused(path, &problems, format, colored, out).map(|()| false)),
    };
    let Running { in_force, config: old } = api.get("/api/config")?;
    let Servers { servers } = api.get("/api/servers")?;
    let changes = if in_force.hash == loaded.sources.hash { Vec::new() } else { diff(&old, &config) };
    let portions = portions(&servers, &config);
    let plan = Plan {
        at: api.at().clone(),
        problems: if changes.is_empty() { Vec::new() } else { guards(path, Some(&old), &config) },
        notes: notes(&in_force, (&old, &config), &changes, &servers, &portions),
        portions,
        changes: changes.iter().map(ToString::to_string).collect(),
        running: in_force,
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
            let shown: Vec<&Portion> =
                self.portions.iter().filter(|portion| self.portions.len() <= ALL || portion.changes()).collect();
            if !shown.is_empty() {
                writeln!(out, "\nshare of new requests, by what servers' checks say now:")?;
                out.write_all(table(&shown[..shown.len().min(ALL)]).draw("  ", colored).as_bytes())?;
            }
            let left = self.portions.len() - shown.len().min(ALL);
            if left > 0 {
                writeln!(out, "  … and {}", count(left, "further server"))?;
            }
        }
        for note in &self.notes {
            writeln!(out, "\nnote: {note}")?;
        }
        if !self.problems.is_empty() {
            writeln!(out)?;
            pictures(&self.problems, colored, out)?;
            writeln!(out, "{}: the balancer would refuse it", path.display())?;
        }
        Ok(())
    }

    fn json(&self, path: &Path, out: &mut dyn Write) -> io::Result<()> {
        let value = json!({
            "file": path,
            "hash": self.hash,
            "fine": self.problems.is_empty(),
            "running": {"admin": self.at, "generation": self.running.generation, "hash": self.running.hash},
            "changes": self.changes,
            "problems": self.problems.iter().map(Problem::json).collect::<Vec<_>>(),
            "servers": self.portions,
            "notes": self.notes,
        });
        json(&value, out)
    }

    fn github(&self, path: &Path, out: &mut dyn Write) -> io::Result<()> {
        let mut text = vec![self.headline()];
        text.extend(self.changes.iter().cloned());
        let changing = self.portions.iter().filter(|portion| !self.changes.is_empty() && portion.changes());
        text.extend(changing.take(ALL).map(|portion| format!("share of {portion}")));
        writeln!(out, "{}", annotation("notice", path, "lb plan", &text.join("\n")))?;
        for note in &self.notes {
            writeln!(out, "{}", annotation("warning", path, "lb plan", note))?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(out, "{}", problem.to_github()))
    }

    fn headline(&self) -> String {
        let place = format!("what runs at {} (generation {})", self.at, self.running.generation);
        match self.changes.len() {
            0 if self.hash == self.running.hash => format!("no change: it is {place}"),
            0 => format!("no change to {place} but in how it is written"),
            changes => format!("{} to {place}", count(changes, "change")),
        }
    }
}

fn table(portions: &[&Portion]) -> Table {
    let mut table =
        Table::new(&[("SERVER", Align::Left), ("BEFORE", Align::Right), ("AFTER", Align::Right), ("", Align::Left)]);
    let share = |share: Option<f64>| Cell::from(&share.map_or_else(|| "-".to_owned(), percent));
    for portion in portions {
        let tone = if portion.changes() { Tone::Wary } else { Tone::Plain };
        let name = Cell::from(&format!("{}/{}", portion.pool, portion.name));
        let note = Cell::from(portion.note.unwrap_or_default()).tone(Tone::Faint);
        table.row([name, share(portion.before), share(portion.after).tone(tone), note], None);
    }
    table
}

/// What is not in the difference but belongs to what will happen.
fn notes(
    running: &InForce,
    (old, new): (&Config, &Config),
    changes: &[Change],
    servers: &[Server],
    portions: &[Portion],
) -> Vec<String> {
    let mut notes = running.remarks();
    if changes.is_empty() {
        return notes;
    }
    let binds = |change: &Change| match change {
        Change::ListenerAdded(_) | Change::ListenerAddress { .. } => true,
        Change::Setting { key, .. } => key == "admin.address",
        _ => false,
    };
    if changes.iter().any(binds) {
        notes.push("whether its new addresses can be listened on shows only there, when it is applied".to_owned());
    }
    let known: HashSet<_> = servers.iter().map(|server| (&*server.pool, &*server.name, &server.address)).collect();
    let served: HashSet<&str> =
        portions.iter().filter(|one| one.after.is_some_and(|share| share > 0.0)).map(|one| &*one.pool).collect();
    for pool in &new.pools {
        let name = pool.name.as_str();
        let mut takes = pool.servers.iter().filter(|server| server.enabled && server.weight > 0);
        let all_new = takes.all(|server| !known.contains(&(name, &*server.name, &server.address)));
        if new.routes.iter().all(|route| route.pool.name() != name) {
            notes.push(format!("no route leads to pool {name}: it gets no requests"));
        } else if !served.contains(name) {
            notes.push(format!("no server of pool {name} would take requests: they would be answered 503"));
        } else if all_new && old.pool(name).is_some() && pool.health.kind != HealthKind::None {
            let hold = format_duration(new.reload.hold);
            notes.push(format!(
                "all servers of pool {name} are new: until one passes its first check, at most {hold}, the old ones serve"
            ));
        }
    }
    notes
}
