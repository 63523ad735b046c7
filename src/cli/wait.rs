//! `lb wait`: until one or more balancers serve exactly a file, or one of them has rejected it.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::admin::Truth;
use crate::cli::api::{InForce, QueryError, Reload, Reloads, get};
use crate::cli::check::{load, pictures};
use crate::config::Address;
use crate::config::problem::Problem;
use crate::control::reload::source::LoadedConfig;
use crate::live::reloads::Outcome;

/// Between two looks, at first and at last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// So many of the newest records are looked at: more than there are between two looks.
const RECORDS: usize = 50;

/// How the wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// All serve it.
    Applied,
    /// The file is not readable, or a balancer has rejected it.
    Rejected,
    /// Some balancer does not serve it yet.
    Late,
}

/// What is known of a balancer.
#[derive(Debug, Clone)]
enum Seen {
    /// It has not answered yet, or not the last time.
    Nothing(String),
    /// It serves something else, or still from old servers.
    Other { generation: u64, hash: String, state: Truth },
    /// It serves the file.
    Applied { generation: u64 },
    /// It has rejected the file.
    Rejected { generation: u64, problems: Vec<Problem> },
}

/// Waits until each of `targets` serves what is at `path` (`-` is standard input) now, at most for `patience`. What came of
/// it goes to `out`, why not to `err`, in colour if asked for.
///
/// # Errors
/// Only if they cannot be written to.
pub(super) async fn wait(
    path: &Path,
    targets: Vec<Address>,
    patience: Duration,
    out: &mut dyn Write,
    (err, colored): (&mut dyn Write, bool),
) -> io::Result<Ended> {
    let until = Instant::now() + patience;
    let (_, LoadedConfig { sources, result }) = load(path);
    if !sources.problems.is_empty() {
        pictures(&sources.problems, colored, err)?;
        return Ok(Ended::Rejected);
    }
    // With their lines, which the API does not tell.
    let own = result.err().unwrap_or_default();
    let seen = Arc::new(Mutex::new(vec![Seen::Nothing("it has not answered yet".to_owned()); targets.len()]));
    let mut waits = JoinSet::new();
    for (index, target) in targets.iter().cloned().enumerate() {
        let mut look = Look { target, hash: sources.hash.clone(), last: None, since: None };
        let seen = Arc::clone(&seen);
        let note = move |now: Seen| seen.lock().unwrap_or_else(PoisonError::into_inner)[index] = now;
        waits.spawn(timeout_at(until, async move { look.until_decided(note).await }));
    }
    // One that has rejected it ends it for all: the others cannot make it good.
    while let Some(ended) = waits.join_next().await {
        if ended.map_err(io::Error::other)? == Ok(Ended::Rejected) {
            break;
        }
    }
    drop(waits);
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    tell(path, &sources.hash, &own, targets.iter().zip(&seen), out, (err, colored))
}

/// Writes what came of it for each balancer.
fn tell<'a>(
    path: &Path,
    hash: &str,
    own: &[Problem],
    seen: impl Iterator<Item = (&'a Address, &'a Seen)> + Clone,
    out: &mut dyn Write,
    (err, colored): (&mut dyn Write, bool),
) -> io::Result<Ended> {
    let rejected = seen.clone().find_map(|(target, seen)| match seen {
        Seen::Rejected { problems, .. } => Some((target, problems)),
        _ => None,
    });
    let is_late = seen.clone().any(|(_, seen)| !matches!(seen, Seen::Applied { .. }));
    if let Some((_, problems)) = rejected {
        pictures(&with_lines(problems, own), colored, err)?;
    } else if is_late {
        // Nobody has taken it yet, and nobody will.
        pictures(own, colored, err)?;
    }
    let failed: &mut dyn Write = if is_late { err } else { out };
    for (target, seen) in seen {
        writeln!(failed, "{target}: {seen}")?;
    }
    match (rejected, is_late) {
        (Some((target, _)), _) => {
            writeln!(failed, "lb: {target} has rejected {}", path.display())?;
            Ok(Ended::Rejected)
        }
        (None, true) => {
            writeln!(failed, "lb: not every balancer serves {} (hash {hash}) yet", path.display())?;
            Ok(Ended::Late)
        }
        (None, false) => Ok(Ended::Applied),
    }
}

/// The same problems, with their lines where this machine has found them too.
fn with_lines(told: &[Problem], own: &[Problem]) -> Vec<Problem> {
    let place = |problem: &Problem| (problem.line, problem.column, problem.message.clone());
    let find = |problem: &Problem| own.iter().find(|own| place(own) == place(problem)).unwrap_or(problem).clone();
    told.iter().map(find).collect()
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing(why) => f.write_str(why),
            Self::Other { generation, hash, state } => {
                let state = match state {
                    Truth::Current => "",
                    Truth::Holding => ", whose new servers have not passed a check yet",
                    Truth::LastGood => ", as its own file was rejected",
                };
                write!(f, "generation {generation}, hash {hash}{state}")
            }
            Self::Applied { generation } => write!(f, "applied, generation {generation}"),
            Self::Rejected { generation, .. } => write!(f, "rejected, generation {generation} stays in force"),
        }
    }
}

/// One balancer, looked at again and again.
#[derive(Debug)]
struct Look {
    target: Address,
    /// What it is to serve.
    hash: String,
    /// The newest record, and what was found to be in force with it.
    last: Option<(Reload, Seen)>,
    /// When the newest record of the first look was made.
    since: Option<String>,
}

impl Look {
    /// Until it serves the file or has rejected it. Whatever is seen is told to `note`.
    async fn until_decided(&mut self, note: impl Fn(Seen)) -> Ended {
        let mut pause = PAUSES.0;
        loop {
            let now = self.look().await.unwrap_or_else(|error| {
                // It may be another process the next time.
                self.last = None;
                Seen::Nothing(error.to_string())
            });
            let decided = match now {
                Seen::Applied { .. } => Some(Ended::Applied),
                Seen::Rejected { .. } => Some(Ended::Rejected),
                Seen::Nothing(_) | Seen::Other { .. } => None,
            };
            note(now);
            if let Some(decided) = decided {
                return decided;
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(PAUSES.1);
        }
    }

    /// The record says whether there is anything new, and costs little however many servers there are.
    async fn look(&mut self) -> Result<Seen, QueryError> {
        let Reloads { reloads } = get(&self.target, &format!("/api/reloads?limit={RECORDS}")).await?;
        let since = self.since.get_or_insert_with(|| reloads.first().map_or(String::new(), |newest| newest.at.clone()));
        let rejected = rejected(&reloads, &self.hash, since);
        if let (Some(newest), Some((known, seen))) = (reloads.first(), &self.last)
            && newest == known
            && !matches!(seen, Seen::Other { state: Truth::Holding, .. })
        {
            return Ok(seen.clone());
        }
        let InForce { generation, hash, state, .. } = get(&self.target, "/api/config").await?;
        let seen = match rejected {
            _ if hash == self.hash && state != Truth::Holding => Seen::Applied { generation },
            Some(Reload { generation, problems, .. }) if hash != self.hash => {
                Seen::Rejected { generation: *generation, problems: problems.clone() }
            }
            _ => Seen::Other { generation, hash, state },
        };
        self.last = reloads.into_iter().next().map(|newest| (newest, seen.clone()));
        Ok(seen)
    }
}

/// The record that says that this content was rejected: the newest of all, which is of what the
/// balancer's file is now, or one made after `since`. An older one may be of a time when something
/// else stood in the way.
fn rejected<'a>(newest_first: &'a [Reload], hash: &str, since: &str) -> Option<&'a Reload> {
    let counts = newest_first.iter().enumerate().filter(|(place, reload)| *place == 0 || *reload.at > *since);
    let mut own = counts.map(|(_, reload)| reload).filter(|reload| reload.hash == hash);
    own.next().filter(|reload| reload.outcome == Outcome::Rejected)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_was_rejected_now_counts() {
        let reloads = |records: &[(&str, &str, &str)]| -> Vec<Reload> {
            let record = |(hash, outcome, at): &(&str, &str, &str)| {
                let record = json!({
                    "generation": 1, "hash": hash, "outcome": outcome, "at": at, "changes": [], "problems": [],
                });
                serde_json::from_value(record).expect("a record")
            };
            records.iter().map(record).collect()
        };
        let cases = [
            (&[("ours", "rejected", "5")][..], true),
            (&[("other", "rejected", "5")], false),
            (&[("other", "applied", "5"), ("ours", "rejected", "4")], false),
            (&[("other", "applied", "9"), ("ours", "rejected", "8")], true),
            (&[("other", "applied", "9"), ("ours", "applied", "8"), ("ours", "rejected", "7")], false),
            (&[("ours", "unchanged", "9")], false),
            (&[("", "rejected", "9")], false),
            (&[], false),
        ];
        for (records, expected) in cases {
            assert_eq!(rejected(&reloads(records), "ours", "5").is_some(), expected, "{records:?}");
        }
    }
}
