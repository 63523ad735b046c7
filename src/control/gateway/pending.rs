//! An edit that needs something that is not available yet, such as a port in use or the address of a server's name: it
//! is tried again until it can be applied or the files change.

use std::future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::Gateway;
use super::apply::{NotApplied, Prepared};
use super::log_file::OpeningFile;
use super::names::{NameLookups, Resolution};
use crate::config::Config;
use crate::config::file::subject::{Subject, locate};
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;
use crate::control::reload::source::Sources;
use crate::worker::socket::BindError;

/// The time between two attempts, and how long names may take to resolve before the edit is reported as pending.
const RETRY: Duration = Duration::from_secs(1);

/// A valid edit, and why it could not be applied.
#[derive(Debug)]
pub(super) struct PendingEdit {
    config: Arc<Config>,
    sources: Sources,
    /// As recorded. Only other problems are recorded again.
    problems: Vec<Problem>,
    names: NameLookups,
    access_log: OpeningFile,
    /// When the change was noticed or, once the edit is on record as pending, the newest attempt began.
    began: Instant,
    /// The next attempt, unless the lookups of names end earlier.
    due: Instant,
}

impl PendingEdit {
    /// An edit that has not been tried yet, or whose last try was recorded with these problems.
    pub(super) fn new(config: Config, sources: Sources, noticed: Instant, problems: Vec<Problem>) -> Self {
        let (config, names) = (Arc::new(config), NameLookups::default());
        let access_log = OpeningFile::default();
        Self { config, sources, problems, names, access_log, began: noticed, due: noticed }
    }

    /// Waits until the edit should be tried again; for ever if there is none.
    pub(super) async fn is_due(pending: &mut Option<Self>) {
        let Some(edit) = pending else { return future::pending().await };
        tokio::select! {
            () = edit.names.ended() => {}
            () = sleep_until(edit.due.into()) => {}
        }
    }
}

impl Gateway {
    /// Tries the pending edit again.
    pub(super) fn retry(&mut self) {
        if let Some(mut edit) = self.pending.take() {
            if !edit.problems.is_empty() {
                edit.began = Instant::now();
            }
            self.attempt(edit);
        }
    }

    /// Applies or rejects an edit, or leaves it pending. The outcome is recorded, unless it is still the same.
    pub(super) fn attempt(&mut self, mut edit: PendingEdit) {
        edit.due = Instant::now() + RETRY;
        let Some(result) = self.try_to_prepare(&mut edit) else {
            self.pending = Some(edit);
            return;
        };
        let mut is_news = true;
        let (sources, began) = (edit.sources.clone(), edit.began);
        if let Err(NotApplied::Pending(problems) | NotApplied::Rejected(problems)) = &result {
            // First, so that the newest record is about the edit, which is not in force.
            is_news = self.renew(&sources, began) || edit.problems != *problems;
            edit.problems.clone_from(problems);
        }
        if let Err(NotApplied::Pending(_)) = &result {
            self.pending = Some(edit);
        }
        if is_news {
            self.conclude(&sources, began, result.map(Some));
        }
    }

    /// Prepares an edit once the names of its new servers are resolved. `None` while it is too early to say whether they
    /// can be.
    fn try_to_prepare(&self, edit: &mut PendingEdit) -> Option<Result<Prepared, NotApplied>> {
        let resolver = &self.running.resolver;
        let names = resolver.new_names(&self.config, &edit.config);
        // Everything that the edit lacks is reported, not only names. Nothing listens before it lacks nothing.
        let bindable = || self.bind(&edit.config, &edit.sources).map(drop);
        let addresses = match edit.names.proceed(resolver, names, &edit.sources.files, &edit.config) {
            Resolution::Resolved(addresses) => addresses,
            // What is wrong with the edit itself is reported at once.
            Resolution::Running => return self.check(&edit.config, &edit.sources).err().map(Err),
            Resolution::Failed(problems) => {
                return Some(Err(match self.check(&edit.config, &edit.sources).and_then(|()| bindable()) {
                    Ok(()) => NotApplied::Pending(problems),
                    Err(NotApplied::Pending(more)) => NotApplied::Pending([problems, more].concat()),
                    Err(rejected) => rejected,
                }));
            }
        };
        let ready = self.check(&edit.config, &edit.sources).and_then(|()| bindable()).and_then(|()| {
            // After that, so that an edit that is not applied for another reason creates no file.
            let opened = edit.access_log.proceed(&self.outputs.access_log, &edit.config.log, &edit.sources.files);
            opened.map_err(|problem| NotApplied::Pending(vec![problem]))
        });
        Some(ready.and_then(|access_log| {
            let mut prepared = self.prepare(&edit.config, &edit.sources, addresses)?;
            prepared.access_log = access_log;
            Ok(prepared)
        }))
    }
}

/// The outcome of an edit whose addresses cannot be bound, for these reasons.
pub(super) fn not_bound(files: &[SourceFile], config: &Config, errors: &[BindError]) -> NotApplied {
    let problems = errors.iter().map(|error| bind_problem(files, config, error)).collect();
    if errors.iter().all(|error| may_end(&error.error)) {
        NotApplied::Pending(problems)
    } else {
        NotApplied::Rejected(problems)
    }
}

/// The error at the place of its address in the files.
pub(super) fn bind_problem(files: &[SourceFile], config: &Config, error: &BindError) -> Problem {
    let listener = config.listeners.iter().position(|listener| listener.address == error.address);
    let subject = listener.map_or(Subject::Admin, Subject::Listener);
    locate(files, subject, Reason::new(error.to_string()).hint(error.hint()))
}

/// Whether the error may end without another edit: another process frees the port, the address is added to an
/// interface, the directory of a Unix socket is created, or descriptors or memory become available. A permission comes only with a restart.
fn may_end(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, NotFound, OutOfMemory, ResourceBusy};
    matches!(error.kind(), AddrInUse | AddrNotAvailable | NotFound | OutOfMemory | ResourceBusy)
        || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SocketAddress;
    use crate::config::file::parse;

    #[test]
    fn an_edit_is_pending_only_if_every_error_may_end() {
        let text = "[[listener]]\naddress = \"127.0.0.1:80\"\n[[server]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n";
        let files = [SourceFile::new("lb.toml", text)];
        let config = parse(&files, &|_| None).expect("valid");
        for (errors, pending) in [
            (&[libc::EADDRINUSE][..], true),
            (&[libc::EADDRNOTAVAIL], true),
            (&[libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS], true),
            (&[libc::EACCES], false),
            (&[libc::EADDRINUSE, libc::EACCES], false),
            (&[libc::EAFNOSUPPORT], false),
        ] {
            let address = "127.0.0.1:80".parse().expect("an address");
            let error = |code: &i32| BindError {
                address: SocketAddress::Ip(address),
                error: io::Error::from_raw_os_error(*code),
            };
            let outcome = not_bound(&files, &config, &errors.iter().map(error).collect::<Vec<_>>());
            let (NotApplied::Pending(problems) | NotApplied::Rejected(problems)) = &outcome;
            assert_eq!(
                (matches!(outcome, NotApplied::Pending(_)), problems.len()),
                (pending, errors.len()),
                "{errors:?}"
            );
            assert!(problems.iter().all(|problem| (problem.line, problem.column) == (2, 11)), "{problems:?}");
        }
    }
}
