//! The composition root: starts the two planes, brings edits into force, shuts down.
//!
//! [`Gateway`] is the control plane's only writer. It owns what outlives generations, and everybody
//! else reads the [`State`] that it writes.

mod apply;
pub mod listeners;
mod start;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use self::listeners::{LINGER, Listeners};
use crate::admin;
use crate::config::Config;
use crate::control::health::checker::{Change, Checker};
use crate::control::registry::Registry;
use crate::control::reload::reader::{ParsedConfig, ReloadRules};
use crate::control::resolver::Resolver;
use crate::live::snapshot::Snapshot;
use crate::live::state::State;
use crate::proxy::fault::Failing;
use crate::telemetry::access_log::AccessLogWriter;
use crate::telemetry::logs::LogControl;
use crate::telemetry::trace::TraceExport;
use crate::worker::WorkerPool;

pub use start::StartError;

/// A snapshot for a change of health is followed by another after so many times what it took to make:
/// at once where servers are few. Of thousands that change one by one, each would cost a pass over all.
const CALM: u32 = 10;
/// How often drains are looked after while there are any.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// What exporters may take to send the rest at the end.
const FLUSH: Duration = Duration::from_secs(3);

/// The running process, seen from the control plane.
#[derive(Debug)]
pub struct Gateway {
    path: PathBuf,
    state: Arc<State>,
    config: Arc<Config>,
    registry: Registry,
    listeners: Listeners,
    worker_pool: WorkerPool,
    workers: usize,
    checker: Checker,
    changes: mpsc::UnboundedReceiver<Change>,
    failing: mpsc::UnboundedReceiver<Failing>,
    resolver: Resolver,
    admin: Admin,
    logs: LogControl,
    access: AccessLogWriter,
    traces: TraceExport,
    pace: watch::Sender<ReloadRules>,
    asked: Arc<Notify>,
    candidates: mpsc::Receiver<ParsedConfig>,
    /// Snapshots that were in force. Requests that began by one hold it; that it is freed here, and not by
    /// the last of them, keeps work that grows with the servers off the workers.
    retired: Vec<Arc<Snapshot>>,
    /// The keeping of the last good configuration, until it is done.
    keeping: Option<JoinHandle<()>>,
}

/// The admin address that is served now.
#[derive(Debug)]
struct Admin {
    context: Arc<admin::Context>,
    /// As configured.
    configured: std::net::SocketAddr,
    /// The same socket as is served, for an address that overlaps with it to follow it.
    socket: std::net::TcpListener,
    /// Dropped, it ends the serving.
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// What the outside world asks of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Re-read the file.
    Reload,
    /// Drain and stop; asked again: stop now.
    Stop,
}

impl Gateway {
    /// The state that everybody may read.
    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Runs until asked to stop and the last open request has ended, or its time is over.
    pub async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Changes of health that the snapshot does not show yet, and when that is mended.
        let (mut unseen, mut calm) = (Vec::new(), tokio::time::Instant::now());
        loop {
            let settled = self.registry.is_settled() && self.listeners.is_settled() && self.retired.is_empty();
            tokio::select! {
                ask = asks.recv() => match ask {
                    Some(Ask::Reload) => self.asked.notify_one(),
                    Some(Ask::Stop) | None => break,
                },
                Some(candidate) = self.candidates.recv() => {
                    if settled {
                        // Who has chosen a server that leaves now is counted there by then.
                        housekeeping.reset();
                    }
                    self.consider(candidate);
                }
                Some(failing) = self.failing.recv() => self.eject(&failing),
                Some(change) = self.changes.recv(), if unseen.is_empty() => unseen.push(change),
                () = tokio::time::sleep_until(calm), if !unseen.is_empty() => {
                    while let Ok(change) = self.changes.try_recv() {
                        unseen.push(change);
                    }
                    let begin = Instant::now();
                    self.publish();
                    calm = (begin + begin.elapsed() * CALM).into();
                    unseen.drain(..).for_each(|change| self.state.events.publish(change.into()));
                }
                _ = housekeeping.tick(), if !settled => self.expire(Instant::now()),
            }
        }
        self.shut_down(asks).await;
    }

    async fn shut_down(mut self, mut asks: mpsc::Receiver<Ask>) {
        let drain = self.config.timeouts.drain;
        tracing::info!(?drain, "stopping: no new clients, open requests finish");
        self.state.stop();
        self.candidates.close();
        let again = async { while let Some(Ask::Reload) = asks.recv().await {} };
        self.listeners.pause_accept();
        let finish = async {
            tokio::time::sleep(LINGER.min(drain)).await;
            self.worker_pool.stop(drain).await
        };
        tokio::select! {
            finished = finish => {
                if !finished {
                    tracing::warn!(?drain, "open requests were cut, for the time to drain was over");
                }
            }
            () = again => tracing::warn!("open requests were cut, for a second signal came"),
        }
        self.worker_pool.stop(Duration::ZERO).await;
        self.checker.stop();
        drop(self.admin);
        if !self.traces.shutdown(FLUSH).await {
            tracing::warn!("the last spans could not be sent in time");
        }
        if !self.access.finish(FLUSH) {
            tracing::warn!("the last lines of the access log could not be written in time");
        }
        if let Some(keeping) = self.keeping {
            // However that ends, it is said where it is done.
            let _ = tokio::time::timeout(FLUSH, keeping).await;
        }
        tracing::info!("stopped");
    }
}
