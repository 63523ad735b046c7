//! The state of the process that every thread may read: the current snapshot, the record of reloads, the events, and
//! whether it is stopping.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};

use crate::live::events::Events;
use crate::live::listener::LiveListener;
use crate::live::reloads::ReloadHistory;
use crate::live::snapshot::Snapshot;
use crate::live::watch_status::WatchStatus;

/// Lives as long as the process. Written by the control plane, except for the count of panics.
#[derive(Debug)]
pub struct State {
    /// The current snapshot: swapped by the control plane, loaded once per request by workers.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Never locked by the request path, and never for long.
    reloads: Mutex<ReloadHistory>,
    /// The listeners that accept clients, and closed ones that still have connections.
    listeners: ArcSwap<Vec<Arc<LiveListener>>>,
    pub watch_status: Arc<WatchStatus>,
    /// The latest events, for subscribers.
    pub events: Events,
    stopping: AtomicBool,
    panics: AtomicU64,
    /// The start of the process.
    pub started: SystemTime,
}

impl State {
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        let started = SystemTime::now();
        Self {
            snapshot: Arc::new(ArcSwap::new(snapshot)),
            reloads: Mutex::default(),
            listeners: ArcSwap::default(),
            watch_status: Arc::default(),
            events: Events::new(started),
            stopping: AtomicBool::new(false),
            panics: AtomicU64::new(0),
            started,
        }
    }

    pub fn reloads(&self) -> MutexGuard<'_, ReloadHistory> {
        self.reloads.lock()
    }

    #[must_use]
    pub fn listeners(&self) -> Arc<Vec<Arc<LiveListener>>> {
        self.listeners.load_full()
    }

    pub fn set_listeners(&self, listeners: Vec<Arc<LiveListener>>) {
        self.listeners.store(Arc::new(listeners));
    }

    /// Whether the process is shutting down.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Marks the process as shutting down.
    pub fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// The number of panics, each of which ended a connection or a task.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Relaxed)
    }

    pub fn count_panic(&self) {
        self.panics.fetch_add(1, Relaxed);
    }
}
