//! `lb wait`: waits until one or more balancers serve exactly the given configuration with servers that are up, or until
//! it is certain that one of them will not.

mod files;
mod pools;

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::de::IgnoredAny;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use self::files::ExpectedFiles;
use self::pools::Pools;
use crate::admin::ConfigState;
use crate::cli::api::{ConfigReply, PoolsReply, QueryError, ReloadReply, ReloadsReply, get};
use crate::cli::check::load;
use crate::cli::fragment;
use crate::cli::output::print_problems;
use crate::config::Address;
use crate::config::problem::Problem;
use crate::config::source::SourceFile;
use crate::control::reload::source::{LoadedConfig, Source};
use crate::live::reloads::Outcome;

/// The shortest and the longest pause between two polls of a balancer.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// How many of the newest reloads a poll reads; far fewer happen between two polls.
const RELOADS: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitOutcome {
    /// All balancers serve the configuration, with servers that are up.
    Applied,
    /// The file is invalid, a balancer has rejected it, or it leaves a pool without a server that is up.
    Failed,
    TimedOut,
}

/// The state of one balancer at its last poll.
#[derive(Debug, Clone)]
enum TargetState {
    /// The balancer did not respond; the reason.
    NoResponse(String),
    /// It serves another configuration.
    Other { generation: u64, hash: String, state: ConfigState },
    /// It serves the configuration, but not with the contents that the files it refers to have here.
    OldFiles { generation: u64, lacking: String },
    /// It will apply the configuration once something that is missing is there.
    Pending { generation: u64, problems: Vec<Problem> },
    /// It serves the configuration, but not every pool with servers that are up yet.
    Waits { generation: u64, pools: Pools },
    /// It serves the configuration.
    Applied { generation: u64 },
    /// It has rejected the configuration.
    Rejected { generation: u64, problems: Vec<Problem> },
    /// It serves the configuration, in which no server of a pool is up.
    Down { generation: u64, pools: Pools },
}

/// Waits until each of `targets` serves the current contents of the file at `path`. `-` is standard input in place of the
/// main file at `config`. Success goes to `out`, anything else to `err`, in colour if asked for.
///
/// # Errors
/// If `out` or `err` cannot be written to, or a poll panics.
pub(super) async fn wait(
    (path, config): (&Path, &Path),
    targets: Vec<Address>,
    timeout: Duration,
    out: &mut dyn Write,
    (err, colored): (&mut dyn Write, bool),
) -> io::Result<WaitOutcome> {
    let (_, LoadedConfig { sources, result }) = load(path);
    if !sources.problems.is_empty() {
        print_problems(&sources.problems, colored, err)?;
        return Ok(WaitOutcome::Failed);
    }
    // Problems found here have an excerpt of the file; those read from the API do not.
    let local_problems = result.err().unwrap_or_default();
    if local_problems.iter().any(is_certain) {
        print_problems(&local_problems, colored, err)?;
        fragment::note(path, &sources).iter().try_for_each(|note| writeln!(err, "note: {note}"))?;
        writeln!(err, "lb: {} is invalid", path.display())?;
        return Ok(WaitOutcome::Failed);
    }
    // Without the values of all variables, the files that it names are not known.
    let is_complete = path != Path::new("-") && local_problems.is_empty();
    let files = if !is_complete { ExpectedFiles::default() } else { ExpectedFiles::of(&sources) };
    let hash = if path == Path::new("-") { hash_as(config, sources.files) } else { sources.hash };
    let deadline = Instant::now() + timeout;
    let states = Arc::new(Mutex::new(vec![TargetState::NoResponse("no response yet".to_owned()); targets.len()]));
    let mut polls = JoinSet::new();
    for (index, target) in targets.iter().cloned().enumerate() {
        let mut poller = Poller { target, hash: hash.clone(), files: files.clone(), last: None, started_at: None };
        let states = Arc::clone(&states);
        let store = move |state: TargetState| states.lock()[index] = state;
        polls.spawn(timeout_at(deadline, async move { poller.poll_until_decided(store).await }));
    }
    // One failure decides the outcome, whatever the other balancers do.
    while let Some(outcome) = polls.join_next().await {
        if outcome.map_err(io::Error::other)? == Ok(WaitOutcome::Failed) {
            break;
        }
    }
    drop(polls);
    let states = states.lock().clone();
    report(path, &hash, &local_problems, targets.iter().zip(&states), out, (err, colored))
}

/// The hash of `files` if the first one, which has no name, were at `main`. It counts only if there are included files.
fn hash_as(main: &Path, mut files: Vec<SourceFile>) -> String {
    let main = main.file_name().map_or(main, Path::new);
    if let Some(first) = files.first_mut() {
        main.clone_into(&mut first.path);
    }
    Source::new(main).with_files(files).hash
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
        // Perhaps they are why no balancer has applied it.
        print_problems(local_problems, colored, err)?;
    }
    let down = states.clone().find_map(|(target, state)| Some((target, state.down()?)));
    let lines: &mut dyn Write = if all_applied { out } else { err };
    for (target, state) in states {
        writeln!(lines, "{target}: {state}")?;
    }
    if all_applied {
        return Ok(WaitOutcome::Applied);
    } else if let Some((target, _)) = rejection {
        writeln!(lines, "lb: {target} rejected {}", path.display())?;
    } else if let Some((target, pools)) = down {
        writeln!(lines, "lb: {target} serves {}, but no server of a pool is up: {}", path.display(), pools.join("; "))?;
    } else {
        writeln!(lines, "lb: timed out before every balancer served {} (hash {hash})", path.display())?;
        return Ok(WaitOutcome::TimedOut);
    }
    Ok(WaitOutcome::Failed)
}

/// Whether a problem does not depend on the environment, which may be another one where the balancer runs.
fn is_certain(problem: &Problem) -> bool {
    !problem.message.starts_with("the environment variable ")
}

/// The balancer's problems, with an excerpt of the file for those that were also found locally.
fn with_excerpts(problems: &[Problem], local: &[Problem]) -> Vec<Problem> {
    let key = |problem: &Problem| (problem.line, problem.column, problem.message.clone());
    let find = |problem: &Problem| local.iter().find(|local| key(local) == key(problem)).unwrap_or(problem).clone();
    problems.iter().map(find).collect()
}

impl TargetState {
    /// The outcome, once it is certain.
    fn outcome(&self) -> Option<WaitOutcome> {
        match self {
            Self::Applied { .. } => Some(WaitOutcome::Applied),
            Self::Rejected { .. } | Self::Down { .. } => Some(WaitOutcome::Failed),
            Self::NoResponse(_)
            | Self::Other { .. }
            | Self::OldFiles { .. }
            | Self::Pending { .. }
            | Self::Waits { .. } => None,
        }
    }

    /// The pools of the configuration that have no server that is up, and none that could still be checked.
    fn down(&self) -> Option<&[String]> {
        match self {
            Self::Down { pools, .. } => Some(&pools.down),
            Self::Waits { pools, .. } if !pools.failing.is_empty() => Some(&pools.failing),
            _ => None,
        }
    }
}

impl fmt::Display for TargetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoResponse(reason) => f.write_str(reason),
            Self::Other { generation, hash, state } => {
                let state = match state {
                    ConfigState::Current | ConfigState::Holding => "",
                    ConfigState::Pending => "; the balancer's file is pending",
                    ConfigState::LastGood => "; the last good one, because the balancer's file was rejected",
                };
                write!(f, "generation {generation}, hash {hash}{state}")
            }
            Self::OldFiles { generation, lacking } => write!(f, "generation {generation}, with {lacking}"),
            Self::Pending { generation, problems } => {
                let reasons: Vec<&str> = problems.iter().map(|problem| &*problem.message).collect();
                write!(f, "pending; still serving generation {generation}: {}", reasons.join("; "))
            }
            Self::Waits { generation, pools } | Self::Down { generation, pools } => {
                write!(f, "applied, generation {generation}; {pools}")
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
    /// The files that it refers to.
    files: ExpectedFiles,
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
            let outcome = state.outcome();
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
        let decision = decision(&reloads, &self.hash, started_at);
        if let (Some(newest), Some((last, state @ (TargetState::Other { .. } | TargetState::OldFiles { .. })))) =
            (reloads.first(), &self.last)
            && newest == last
        {
            return Ok(state.clone());
        }
        let ConfigReply { generation, hash, state, files, .. } = get(&self.target, "/api/config").await?;
        // It may serve the configuration, with older contents of the files that it refers to.
        let lacks = |reload: &&ReloadReply| reload.outcome == Outcome::Pending && state == ConfigState::Pending;
        let state = if let Some(pending) = decision.filter(lacks) {
            TargetState::Pending { generation: pending.generation, problems: pending.problems.clone() }
        } else if hash == self.hash {
            match self.files.lacking(&files) {
                Some(lacking) => TargetState::OldFiles { generation, lacking },
                None => self.availability(generation).await?,
            }
        } else {
            match decision {
                Some(ReloadReply { generation, problems, outcome: Outcome::Rejected, .. }) => {
                    TargetState::Rejected { generation: *generation, problems: problems.clone() }
                }
                Some(ReloadReply { generation, problems, outcome: Outcome::Pending, .. }) => {
                    TargetState::Pending { generation: *generation, problems: problems.clone() }
                }
                _ => TargetState::Other { generation, hash, state },
            }
        };
        self.last = reloads.into_iter().next().map(|newest| (newest, state.clone()));
        Ok(state)
    }

    /// The state of a balancer that serves the configuration as this generation.
    async fn availability(&self, generation: u64) -> Result<TargetState, QueryError> {
        let PoolsReply { generation: of_pools, pools } = get(&self.target, "/api/pools").await?;
        let pools = Pools::of(&pools);
        // A balancer that is stopping serves no new client. Another may take its place.
        get::<IgnoredAny>(&self.target, "/health").await?;
        Ok(match generation == of_pools {
            true if pools.is_empty() => TargetState::Applied { generation },
            true if !pools.down.is_empty() => TargetState::Down { generation, pools },
            // Another generation is asked about next time.
            _ => TargetState::Waits { generation, pools },
        })
    }
}

/// The newest reload of this content. It counts only if it is the newest of all, which is about the balancer's
/// current file, or later than `started_at`: an older rejection may have had a reason that no longer applies, such as a
/// guard.
fn decision<'a>(newest_first: &'a [ReloadReply], hash: &str, started_at: &str) -> Option<&'a ReloadReply> {
    let counts = |(index, reload): &(usize, &ReloadReply)| *index == 0 || *reload.at > *started_at;
    let mut of_content =
        newest_first.iter().enumerate().filter(counts).map(|(_, reload)| reload).filter(|reload| reload.hash == hash);
    of_content.next()
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
            let is_rejected = |reload: &ReloadReply| reload.outcome == Outcome::Rejected;
            assert_eq!(decision(&reloads(records), "ours", "5").is_some_and(is_rejected), expected, "{records:?}");
        }
    }

    #[test]
    fn a_variable_that_is_not_set_here_does_not_make_the_file_invalid() {
        use crate::config::file::parse;
        let file = "[[listener]]\naddress = \"${ADDRESS}\"\n[[server]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n";
        for (file, certain) in [(file.to_owned(), false), (format!("{file}wieght = 1\n"), true)] {
            let problems = parse(&[SourceFile::new("lb.toml", file)], &|_| None).expect_err("a bad file");
            assert_eq!(problems.iter().any(is_certain), certain, "{problems:?}");
        }
    }
}
