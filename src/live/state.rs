//! The state of the process that everybody may read: the snapshot in force, the record of reloads,
//! the events, whether it is stopping.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::live::events::Events;
use crate::live::listener::LiveListener;
use crate::live::reloads::Record;
use crate::live::snapshot::Snapshot;
use crate::live::watch_status::WatchStatus;

/// One for the process. The control plane writes, all read.
#[derive(Debug)]
pub struct State {
    /// The one pointer at which control plane and data plane meet.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Never locked by the request path, nor for long.
    reloads: Mutex<Record>,
    /// The listeners that take clients, and those that still have some.
    listeners: ArcSwap<Vec<Arc<LiveListener>>>,
    /// How well the files are seen.
    pub sight: Arc<WatchStatus>,
    /// What happened lately, for those who follow it.
    pub events: Events,
    stopping: AtomicBool,
    panics: AtomicU64,
    /// When the process began.
    pub started: SystemTime,
}

impl State {
    /// Begins with the first snapshot.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        let started = SystemTime::now();
        Self {
            snapshot: Arc::new(ArcSwap::new(snapshot)),
            reloads: Mutex::default(),
            listeners: ArcSwap::default(),
            sight: Arc::default(),
            events: Events::new(started),
            stopping: AtomicBool::new(false),
            panics: AtomicU64::new(0),
            started,
        }
    }

    /// The record of reloads.
    pub fn reloads(&self) -> MutexGuard<'_, Record> {
        // A panic while it was held leaves a record that is still a record.
        self.reloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The listeners now.
    #[must_use]
    pub fn listeners(&self) -> Arc<Vec<Arc<LiveListener>>> {
        self.listeners.load_full()
    }

    /// Says which listeners there are.
    pub fn set_listeners(&self, listeners: Vec<Arc<LiveListener>>) {
        self.listeners.store(Arc::new(listeners));
    }

    /// Whether the process is shutting down.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Says that the process is shutting down.
    pub fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Faults in `lb` itself that ended a request or a task.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Relaxed)
    }

    /// Counts one such fault.
    pub fn count_panic(&self) {
        self.panics.fetch_add(1, Relaxed);
    }
}
