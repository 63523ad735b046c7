//! `lb wait`: waits until one or more balancers serve exactly the given configuration, or one of them rejects it.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::admin::ConfigState;
use crate::cli::api::{ConfigReply, QueryError, ReloadReply, ReloadsReply, get};
use crate::cli::check::load;
use crate::cli::output::print_problems;
use crate::config::Address;
use crate::config::problem::Problem;
use crate::control::reload::source::LoadedConfig;
use crate::live::reloads::Outcome;

/// The shortest and the longest pause between two polls of a balancer.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// How many of the newest reloads a poll reads; far fewer happen between two polls.
const RELOADS: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitOutcome {
    /// All balancers serve the configuration.
    Applied,
    /// The file cannot be read, or a balancer has rejected it.
    Rejected,
    TimedOut,
}

/// The state of one balancer at its last poll.
#[derive(Debug, Clone)]
enum TargetState {
    /// The balancer did not respond; the reason.
    NoResponse(String),
    /// It serves another configuration, or a pool is still served by its old servers.
    Other { generation: u64, hash: String, state: ConfigState },
    /// It serves the configuration.
    Applied { generation: u64 },
    /// It has rejected the configuration.
    Rejected { generation: u64, problems: Vec<Problem> },
}

/// Waits until each of `targets` serves the current contents of the file at `path` (`-` is standard input). Success
/// goes to `out`, anything else to `err`, in colour if asked for.
///
/// # Errors
/// If `out` or `err` cannot be written to, or a poll panics.
pub(super) async fn wait(
    path: &Path,
    targets: Vec<Address>,
    timeout: Duration,
    out: &mut dyn Write,
    (err, colored): (&mut dyn Write, bool),
) -> io::Result<WaitOutcome> {
    let deadline = Instant::now() + timeout;
    let (_, LoadedConfig { sources, result }) = load(path);
    if !sources.problems.is_empty() {
        print_problems(&sources.problems, colored, err)?;
        return Ok(WaitOutcome::Rejected);
    }
    // Problems found here have an excerpt of the file; those read from the API do not.
    let local_problems = result.err().unwrap_or_default();
    let states = Arc::new(Mutex::new(vec![TargetState::NoResponse("no response yet".to_owned()); targets.len()]));
    let mut polls = JoinSet::new();
    for (index, target) in targets.iter().cloned().enumerate() {
        let mut poller = Poller { target, hash: sources.hash.clone(), last: None, started_at: None };
        let states = Arc::clone(&states);
        let store = move |state: TargetState| states.lock()[index] = state;
        polls.spawn(timeout_at(deadline, async move { poller.poll_until_decided(store).await }));
    }
    // One rejection decides the outcome, whatever the other balancers do.
    while let Some(outcome) = polls.join_next().await {
        if outcome.map_err(io::Error::other)? == Ok(WaitOutcome::Rejected) {
            break;
        }
    }
    drop(polls);
    let states = states.lock().clone();
    report(path, &sources.hash, &local_problems, targets.iter().zip(&states), out, (err, colored))
}

/// Writes the state of each balancer, and the problems if there are any.
fn report<'a>(
    path: &Path,
    hash: &str,
    local_problems: &[Problem],
    states: impl Iterator<Item = (&'a Address, &'a TargetState)> + Clone,
    out: &mut dyn Write,
    (err, colored): (&mut dyn Write, bool),
) -> io::Result<WaitOutcome> {
    let rejection = states.clone().find_map(|(target, state)| match state {
        TargetState::Rejected { problems, .. } => Some((target, problems)),
        _ => None,
    });
    let all_applied = states.clone().all(|(_, state)| matches!(state, TargetState::Applied { .. }));
    if let Some((_, problems)) = rejection {
        print_problems(&with_excerpts(problems, local_problems), colored, err)?;
    } else if !all_applied {
        // If the file is invalid, that is why no balancer has applied it.
        print_problems(local_problems, colored, err)?;
    }
    let lines: &mut dyn Write = if all_applied { out } else { err };
    for (target, state) in states {
        writeln!(lines, "{target}: {state}")?;
    }
    match rejection {
        Some((target, _)) => {
            writeln!(lines, "lb: {target} rejected {}", path.display())?;
            Ok(WaitOutcome::Rejected)
        }
        None if all_applied => Ok(WaitOutcome::Applied),
        None => {
            writeln!(lines, "lb: timed out before every balancer served {} (hash {hash})", path.display())?;
            Ok(WaitOutcome::TimedOut)
        }
    }
}

/// The balancer's problems, with an excerpt of the file for those that were also found locally.
fn with_excerpts(problems: &[Problem], local: &[Problem]) -> Vec<Problem> {
    let key = |problem: &Problem| (problem.line, problem.column, problem.message.clone());
    let find = |problem: &Problem| local.iter().find(|local| key(local) == key(problem)).unwrap_or(problem).clone();
    problems.iter().map(find).collect()
}

impl fmt::Display for TargetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoResponse(reason) => f.write_str(reason),
            Self::Other { generation, hash, state } => {
                let state = match state {
                    ConfigState::Current => "",
                    ConfigState::Pending => "; the balancer's file is pending",
                    ConfigState::Holding => "; no new server has passed a check yet",
                    ConfigState::LastGood => "; the last good one, because the balancer's file was rejected",
                };
                write!(f, "generation {generation}, hash {hash}{state}")
            }
            Self::Applied { generation } => write!(f, "applied, generation {generation}"),
            Self::Rejected { generation, .. } => write!(f, "rejected; still serving generation {generation}"),
        }
    }
}

/// Polls one balancer.
#[derive(Debug)]
struct Poller {
    target: Address,
    /// The hash of the configuration to wait for.
    hash: String,
    /// The newest reload at the last poll, and the state then.
    last: Option<(ReloadReply, TargetState)>,
    /// When the newest reload at the first poll ended, by the balancer's clock.
    started_at: Option<String>,
}

impl Poller {
    /// Polls until the balancer serves the configuration or has rejected it, and stores each state.
    async fn poll_until_decided(&mut self, store: impl Fn(TargetState)) -> WaitOutcome {
        let mut pause = PAUSES.0;
        loop {
            let state = self.poll().await.unwrap_or_else(|error| {
                // Another process may respond next time.
                self.last = None;
                TargetState::NoResponse(error.to_string())
            });
            let outcome = match state {
                TargetState::Applied { .. } => Some(WaitOutcome::Applied),
                TargetState::Rejected { .. } => Some(WaitOutcome::Rejected),
                TargetState::NoResponse(_) | TargetState::Other { .. } => None,
            };
            store(state);
            if let Some(outcome) = outcome {
                return outcome;
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(PAUSES.1);
        }
    }

    /// Reads the record first, because `/api/config` is large with many servers and changes only with the record.
    async fn poll(&mut self) -> Result<TargetState, QueryError> {
        let ReloadsReply { reloads } = get(&self.target, &format!("/api/reloads?limit={RELOADS}")).await?;
        let newest_at = || reloads.first().map_or(String::new(), |newest| newest.at.clone());
        let started_at = self.started_at.get_or_insert_with(newest_at);
        let rejection = rejection(&reloads, &self.hash, started_at);
        if let (Some(newest), Some((last, state))) = (reloads.first(), &self.last)
            && newest == last
            && !matches!(state, TargetState::Other { state: ConfigState::Holding, .. })
        {
            return Ok(state.clone());
        }
        let ConfigReply { generation, hash, state, .. } = get(&self.target, "/api/config").await?;
        let state = match rejection {
            _ if hash == self.hash && state != ConfigState::Holding => TargetState::Applied { generation },
            Some(ReloadReply { generation, problems, .. }) if hash != self.hash => {
                TargetState::Rejected { generation: *generation, problems: problems.clone() }
            }
            _ => TargetState::Other { generation, hash, state },
        };
        self.last = reloads.into_iter().next().map(|newest| (newest, state.clone()));
        Ok(state)
    }
}

/// The reload that rejected this content. It counts only if it is the newest of all, which is about the balancer's
/// current file, or later than `started_at`: an older rejection may have had a reason that no longer applies, such as a
/// guard.
fn rejection<'a>(newest_first: &'a [ReloadReply], hash: &str, started_at: &str) -> Option<&'a ReloadReply> {
    let counts = |(index, reload): &(usize, &ReloadReply)| *index == 0 || *reload.at > *started_at;
    let mut of_content =
        newest_first.iter().enumerate().filter(counts).map(|(_, reload)| reload).filter(|reload| reload.hash == hash);
    of_content.next().filter(|reload| reload.outcome == Outcome::Rejected)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_recent_rejection_counts() {
        let reloads = |records: &[(&str, &str, &str)]| -> Vec<ReloadReply> {
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
            assert_eq!(rejection(&reloads(records), "ours", "5").is_some(), expected, "{records:?}");
        }
    }
}
