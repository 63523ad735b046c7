//! The composition root: starts the two planes, applies edits, shuts down.
//!
//! [`Gateway`] is the control plane's only writer. Everybody else reads the [`State`] that it writes.

mod admin_server;
mod apply;
mod certificates;
mod health;
pub mod listeners;
pub mod log_file;
mod names;
mod pending;
mod record;
mod start;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

use self::admin_server::AdminServer;
use self::certificates::CALENDAR;
use self::health::UnpublishedChanges;
use self::listeners::ListenerSet;
use self::pending::PendingEdit;
use crate::config::Config;
use crate::config::problem::Problem;
use crate::control::acme::Acme;
use crate::control::certificates::in_force::FilesInForce;
use crate::control::health::checker::{Checker, StateChange};
use crate::control::registry::Registry;
use crate::control::reload::last_good::LastGoodCopy;
use crate::control::reload::reader::ReaderHandle;
use crate::control::reload::source::Sources;
use crate::control::resolver::Resolver;
use crate::live::snapshot::Snapshot;
use crate::live::state::State;
use crate::proxy::context::ServerReport;
use crate::telemetry::access_log::AccessLogWriter;
use crate::telemetry::logs::LogControl;
use crate::telemetry::trace::TraceExport;
use crate::worker::WorkerPool;

pub use start::StartError;

/// How often drains, holds and closing listeners are checked while there are any.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// How long exporters and logs may take to send and write the rest at the end, all of them together.
const FLUSH: Duration = Duration::from_secs(3);
/// How long they may take after a second signal, and the process's log for its own last lines.
const BRIEF_FLUSH: Duration = Duration::from_millis(200);

/// The running process, as the control plane sees it.
#[derive(Debug)]
pub struct Gateway {
    /// The number of workers. Fixed at start, because `proxy.workers` takes effect with the next one.
    workers: usize,
    /// Everything that others may read, with the snapshot that requests see. Lives as long as the process.
    state: Arc<State>,
    /// The configuration of the newest generation, which the next edit is compared with. Replaced by each commit.
    config: Arc<Config>,
    /// The files that it refers to. Replaced with it.
    files: FilesInForce,
    /// Its own files. Replaced with it.
    sources: Sources,
    /// Why older contents of the files that it refers to are kept, as recorded.
    kept: Vec<Problem>,
    /// The warnings about certificates that have been logged.
    warned: Vec<String>,
    /// The newest edit, while it cannot be applied yet.
    pending: Option<PendingEdit>,
    /// Changed by each commit, and outlives every generation.
    running: Running,
    /// Messages to the control plane. Live as long as the process.
    inputs: Inputs,
    /// Where the process reports to. Live as long as the process; an edit changes their settings.
    outputs: Outputs,
    /// Health changes that the snapshot does not show yet. Each lives until the next publication.
    unpublished: UnpublishedChanges,
    /// Earlier snapshots, each until its last request has ended. They are freed here and not by that request,
    /// because that takes time in proportion to the number of servers, which a worker should not spend.
    retired: Vec<Arc<Snapshot>>,
}

/// The parts of the process that carry out the configuration and that an edit changes without replacing them.
#[derive(Debug)]
struct Running {
    /// Live servers, pools and routes by name, so that an edit finds the state that it leaves alone.
    registry: Registry,
    /// The bound sockets, so that an edit that keeps an address keeps its socket.
    listeners: ListenerSet,
    /// The threads of the data plane.
    worker_pool: WorkerPool,
    /// The health checks of all servers of the snapshot.
    checker: Checker,
    /// The name lookups of all servers of the snapshot.
    resolver: Resolver,
    /// The orders of certificates. Each commit tells it what to order.
    acme: Acme,
}

/// The channels that the control plane waits on, besides signals.
#[derive(Debug)]
struct Inputs {
    /// Edits, from the reader's thread, and the way to give it orders.
    reader: ReaderHandle,
    /// Servers whose state has changed, from the tasks that check them.
    health_changes: mpsc::UnboundedReceiver<StateChange>,
    /// Reports about servers, from the workers.
    reports: mpsc::UnboundedReceiver<ServerReport>,
}

/// The process's reports to people and other programs.
#[derive(Debug)]
struct Outputs {
    /// The API, the metrics and the dashboard.
    admin: AdminServer,
    /// Level and format of the process's log.
    logs: LogControl,
    /// The threads that write the access log. They are kept to flush them at the end.
    access_log: AccessLogWriter,
    /// The tasks that export spans.
    traces: TraceExport,
    /// The copy of the last good configuration, which the next start may need.
    last_good: LastGoodCopy,
}

/// A signal to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Re-read the file (SIGHUP).
    Reload,
    /// Open the files of logs again (SIGUSR1).
    ReopenLogs,
    /// Drain and stop (SIGTERM, SIGINT); a second one stops at once.
    Stop,
}

impl Gateway {
    /// The state that others may read.
    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Runs until a signal to stop, and then until the last open request has ended or been aborted.
    pub async fn run(mut self, mut signals: mpsc::Receiver<Signal>) {
        let mut housekeeping = interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut calendar = interval(CALENDAR);
        calendar.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let settled = self.is_settled();
            tokio::select! {
                signal = signals.recv() => match signal {
                    Some(Signal::Reload) => {
                        self.inputs.reader.read_now();
                        self.running.acme.try_now();
                    }
                    Some(Signal::ReopenLogs) => self.outputs.access_log.reopen(),
                    Some(Signal::Stop) | None => break,
                },
                Some(parsed) = self.inputs.reader.next() => {
                    if settled {
                        // The edit's drains are checked a full period later: by then, every request that has picked a
                        // server from the old snapshot is counted there.
                        housekeeping.reset();
                    }
                    self.consider(parsed);
                }
                Some(report) = self.inputs.reports.recv() => self.take_report(report),
                Some(change) = self.inputs.health_changes.recv(), if self.unpublished.is_empty() => {
                    self.unpublished.add(change);
                }
                () = sleep_until(self.unpublished.due()), if !self.unpublished.is_empty() => self.publish_changes(),
                () = self.running.checker.idle_ended() => self.running.worker_pool.refresh(),
                () = PendingEdit::is_due(&mut self.pending) => self.retry(),
                _ = calendar.tick(), if self.has_certificates() => self.warn_of_certificates(),
                _ = housekeeping.tick(), if !settled => self.expire(Instant::now()),
            }
        }
        self.shut_down(signals).await;
    }

    /// Whether there is nothing for [`Gateway::expire`] to end.
    fn is_settled(&self) -> bool {
        self.running.registry.is_settled() && self.running.listeners.is_settled() && self.retired.is_empty()
    }

    async fn shut_down(mut self, mut signals: mpsc::Receiver<Signal>) {
        let drain = self.config.timeouts.drain;
        tracing::info!(?drain, "stopping; open requests may finish");
        self.state.stop();
        self.inputs.reader.stop();
        let Running { listeners, mut worker_pool, checker, acme, .. } = self.running;
        // Another replica may take over.
        drop(acme);
        let outputs = &self.outputs;
        let mut next_stop = async || {
            loop {
                match signals.recv().await {
                    Some(Signal::ReopenLogs) => outputs.access_log.reopen(),
                    Some(Signal::Reload) => {}
                    Some(Signal::Stop) | None => return,
                }
            }
        };
        let finish = async {
            listeners.close_all(&worker_pool, drain).await;
            worker_pool.stop(drain).await
        };
        let mut limit = FLUSH;
        tokio::select! {
            finished = finish => {
                if !finished {
                    tracing::warn!(?drain, "drain timeout reached; open requests were aborted");
                }
            }
            () = next_stop() => {
                tracing::warn!("second signal received; aborting open requests");
                limit = BRIEF_FLUSH;
            }
        }
        worker_pool.stop(Duration::ZERO).await;
        checker.stop();
        let flush = self.outputs.flush(limit);
        tokio::select! {
            () = flush => {}
            // Whatever still waits for its reader is lost.
            () = async { while let Some(Signal::Reload | Signal::ReopenLogs) = signals.recv().await {} } => {}
        }
    }
}

impl Outputs {
    /// Ends the admin address and writes out the rest of everything else, for at most `limit`, and then says so.
    async fn flush(self, limit: Duration) {
        let end = Instant::now() + limit;
        drop(self.admin);
        let access_log = spawn_blocking(move || self.access_log.finish(limit));
        let (spans, lines, copy) =
            tokio::join!(self.traces.shutdown(limit), access_log, timeout(limit, self.last_good.finish()));
        if !spans {
            tracing::warn!("the last spans could not be sent in time");
        }
        if !lines.is_ok_and(|written| written) {
            tracing::warn!("the last lines of the access log could not be written in time");
        }
        if copy.is_err() {
            tracing::warn!("the last good copy could not be written in time");
        }
        tracing::info!("stopped");
        let (logs, left) = (self.logs.flush(), end.saturating_duration_since(Instant::now()).max(BRIEF_FLUSH));
        // If it fails, there is nobody to tell.
        let _ = spawn_blocking(move || logs.wait(left)).await;
    }
}

#[cfg(test)]
mod tests;
