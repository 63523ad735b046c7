//! An edit that needs something that is not available yet, such as a port in use: it is tried again until it can be
//! applied or the files change.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Gateway;
use super::apply::NotApplied;
use crate::config::Config;
use crate::config::problem::{Problem, Reason};
use crate::control::reload::source::Sources;
use crate::worker::socket::BindError;

/// The time between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// A valid edit, and why it could not be applied.
#[derive(Debug)]
pub(super) struct PendingEdit {
    config: Arc<Config>,
    sources: Sources,
    /// As recorded. Only other problems are recorded again.
    problems: Vec<Problem>,
    /// The next attempt.
    due: Instant,
}

impl PendingEdit {
    /// An edit that has not been tried yet.
    pub(super) fn new(config: Config, sources: Sources) -> Self {
        Self { config: Arc::new(config), sources, problems: Vec::new(), due: Instant::now() }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }
}

impl Gateway {
    /// Tries the pending edit again.
    pub(super) fn retry(&mut self) {
        if let Some(edit) = self.pending.take() {
            self.attempt(edit, Instant::now());
        }
    }

    /// Applies or rejects an edit, or leaves it pending. The outcome is recorded, unless it is still the same.
    pub(super) fn attempt(&mut self, mut edit: PendingEdit, began: Instant) {
        let result = self.prepare(&edit.config, &edit.sources);
        let mut is_news = true;
        let sources = edit.sources.clone();
        if let Err(NotApplied::Pending(problems)) = &result {
            is_news = edit.problems != *problems;
            edit.problems.clone_from(problems);
            edit.due = Instant::now() + RETRY;
            self.pending = Some(edit);
        }
        if is_news {
            self.conclude(&sources, began, result.map(Some));
        }
    }
}

/// The outcome of an edit whose addresses cannot be bound, for these reasons.
pub(super) fn not_bound(file: &Path, errors: &[BindError]) -> NotApplied {
    let problem = |error: &BindError| Problem::of_file(file, Reason::new(error.to_string()).hint(error.hint()));
    let problems = errors.iter().map(problem).collect();
    if errors.iter().all(|error| may_end(&error.error)) {
        NotApplied::Pending(problems)
    } else {
        NotApplied::Rejected(problems)
    }
}

/// Whether the error may end without another edit: another process frees the port, the address is added to an
/// interface, or descriptors or memory become available. A permission comes only with a restart.
fn may_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory)
        || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_pending_only_if_every_error_may_end() {
        for (errors, pending) in [
            (&[libc::EADDRINUSE][..], true),
            (&[libc::EADDRNOTAVAIL], true),
            (&[libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS], true),
            (&[libc::EACCES], false),
            (&[libc::EADDRINUSE, libc::EACCES], false),
            (&[libc::EAFNOSUPPORT], false),
        ] {
            let address = "127.0.0.1:80".parse().expect("an address");
            let error = |code: &i32| BindError { address, error: io::Error::from_raw_os_error(*code) };
            let outcome = not_bound(Path::new("lb.toml"), &errors.iter().map(error).collect::<Vec<_>>());
            let (NotApplied::Pending(problems) | NotApplied::Rejected(problems)) = &outcome;
            assert_eq!(
                (matches!(outcome, NotApplied::Pending(_)), problems.len()),
                (pending, errors.len()),
                "{errors:?}"
            );
        }
    }
}
