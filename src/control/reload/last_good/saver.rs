//! Saves copies in the background, because a disk may be slow, until it works: a failure is reported as long as it lasts.

use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

use super::{DIRECTORY_VARIABLE, NAME, directory, from_environment, load, pointer, save};
use crate::config::ReloadConfig;
use crate::config::source::SourceFile;
use crate::control::reload::reader::env;
use crate::live::watch_status::WatchStatus;

/// The time between two attempts, and between two looks at whether the copy is still there.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the last good copy up to date.
#[derive(Debug)]
pub struct LastGoodCopy {
    wanted: watch::Sender<Option<Arc<Wanted>>>,
    task: JoinHandle<()>,
}

/// The copy that a start with a bad file should find.
#[derive(Debug)]
struct Wanted {
    /// `None` if no copy is to be kept.
    directory: Option<PathBuf>,
    /// Whether only the file names the directory.
    needs_pointer: bool,
    files: Vec<SourceFile>,
}

/// The result of an attempt to save.
#[derive(Debug, Default, PartialEq, Eq)]
struct Saved {
    /// Why there is no new copy, and what a start would do.
    failure: Option<String>,
    /// Why a start might not find the copy.
    hidden: Option<String>,
}

impl Saved {
    fn is_complete(&self) -> bool {
        self.failure.is_none() && self.hidden.is_none()
    }
}

impl LastGoodCopy {
    /// Waits for the first copy of the main file at `main`. Reports to `status`.
    #[must_use]
    pub fn start(main: PathBuf, status: Arc<WatchStatus>) -> Self {
        let (wanted, receiver) = watch::channel(None);
        let task = tokio::spawn(run(receiver, main.into(), status));
        Self { wanted, task }
    }

    /// Begins to save a copy of these files, if `config` or the environment names a directory.
    pub fn save(&self, config: &ReloadConfig, files: Vec<SourceFile>) {
        let directory = directory(config, &env);
        let needs_pointer = directory.is_some() && directory != from_environment(&env);
        // Messages name it so that it is the same elsewhere.
        let directory = directory.map(|directory| std::path::absolute(&directory).unwrap_or(directory));
        self.wanted.send_replace(Some(Arc::new(Wanted { directory, needs_pointer, files })));
    }

    /// Waits until the newest copy has been saved, or could not be.
    pub async fn finish(self) {
        drop(self.wanted);
        // It ends, and has logged its errors.
        let _ = self.task.await;
    }
}

async fn run(mut wanted: watch::Receiver<Option<Arc<Wanted>>>, main: Arc<Path>, status: Arc<WatchStatus>) {
    let (mut reported, mut is_new) = (Saved::default(), true);
    loop {
        let newest = wanted.borrow_and_update().clone();
        if let Some(newest) = newest.clone() {
            let (main, complete) = (Arc::clone(&main), reported.is_complete());
            let work = move || (!complete || is_new || !newest.is_kept(&main)).then(|| newest.save(&main));
            // A panic is counted and logged where it happens.
            if let Some(saved) = spawn_blocking(work).await.unwrap_or_default() {
                report(&saved, &reported, &status);
                reported = saved;
            }
        }
        // Without a copy to look after, no timer wakes the thread.
        let is_settled = newest.is_none_or(|newest| newest.directory.is_none()) && reported.is_complete();
        let again = async { if is_settled { pending().await } else { sleep(RETRY).await } };
        let changed = tokio::select! {
            changed = wanted.changed() => Some(changed),
            () = again => None,
        };
        is_new = match changed {
            Some(Ok(())) => true,
            Some(Err(_)) => return,
            None => false,
        };
    }
}

/// Logs what is new, and publishes everything.
fn report(saved: &Saved, before: &Saved, status: &WatchStatus) {
    if let Some(failure) = saved.failure.as_ref().filter(|_| saved.failure != before.failure) {
        tracing::error!("{failure}");
    }
    if let Some(hidden) = saved.hidden.as_ref().filter(|_| saved.hidden != before.hidden) {
        tracing::warn!("{hidden}");
    }
    if saved.failure.is_none() && before.failure.is_some() {
        tracing::info!("the last good copy is kept again");
    }
    let warnings = saved.failure.iter().chain(&saved.hidden).cloned().collect();
    status.set_copy(warnings, saved.failure.is_none());
}

impl Wanted {
    /// Whether the copy is still where it was saved, and can be found: somebody may have deleted it.
    fn is_kept(&self, main: &Path) -> bool {
        let Some(directory) = &self.directory else { return true };
        let found = || pointer::read(main) == std::path::absolute(directory).ok();
        directory.join(NAME).exists() && (!self.needs_pointer || found())
    }

    fn save(&self, main: &Path) -> Saved {
        let Some(directory) = &self.directory else {
            pointer::remove(main);
            return Saved::default();
        };
        match save(directory, main, &self.files) {
            Ok(()) => Saved { hidden: self.point(main, directory), ..Saved::default() },
            Err(error) => Saved { failure: Some(failure(directory, main, &error)), ..Saved::default() },
        }
    }

    /// Makes the directory known to a start whose file does not name it. Returns why that is not possible.
    fn point(&self, main: &Path, directory: &Path) -> Option<String> {
        if !self.needs_pointer {
            pointer::remove(main);
            return None;
        }
        let error = pointer::write(main, directory).err()?;
        let directory = directory.display();
        Some(format!(
            "a start with an empty or missing file would not find the last good copy, because {} cannot be written: \
             {error}; set {DIRECTORY_VARIABLE}={directory} for lb as well",
            pointer::path(main).unwrap_or_default().display()
        ))
    }
}

fn failure(directory: &Path, main: &Path, error: &io::Error) -> String {
    let then = match load(directory, main) {
        Ok(Some(_)) => "an older copy is still there, and a start with an invalid file would use it",
        Ok(None) | Err(_) => "a start with an invalid file would fail",
    };
    let directory = directory.display();
    format!("the last good copy cannot be kept, because it cannot be saved in {directory}: {error}; {then}")
}
