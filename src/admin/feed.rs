//! `/api/events`: server-sent events. A slow subscriber delays nobody: it skips to the newest figures, and a `gap`
//! event tells it that it missed events.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use super::error::ApiError;
use crate::admin::figures::{FiguresView, SampleView};
use crate::admin::view::{HealthChangeView, ReloadView};
use crate::live::events::{Event, EventId};
use crate::live::state::State;
use crate::telemetry::history::{self, History};

const MAX_SUBSCRIBERS: usize = 100;
/// The longest silence on a stream, so that proxies in between do not close it as idle.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The time between figures while anybody subscribes to them. With many servers and routes they are large, so every
/// [`ENTRIES_PER_INTERVAL`] of those add another interval.
const FIGURES_INTERVAL: Duration = Duration::from_secs(1);
const ENTRIES_PER_INTERVAL: usize = 500;
/// How long a subscriber waits before it reconnects, in milliseconds.
const RECONNECT_MS: u32 = 1000;

/// The source of all event streams. There is one per process.
#[derive(Debug)]
pub struct Feed {
    state: Arc<State>,
    history: Mutex<History>,
    /// The newest figures, as an encoded event. Each subscriber to figures holds a receiver.
    figures: watch::Sender<Bytes>,
    /// Somebody has subscribed to figures.
    subscribed: Notify,
    slots: Arc<Semaphore>,
}

/// An accepted subscription. It travels in the response's extensions to where the response is sent.
#[derive(Debug, Clone)]
pub(super) struct Subscription {
    /// Extensions must be `Clone`, which the permit is not.
    _slot: Arc<OwnedSemaphorePermit>,
    /// The client's `Last-Event-ID`, if it sent one; the inner `None` means that the id is invalid.
    last_id: Option<Option<EventId>>,
    figures: bool,
}

/// The body of a response that lasts until either side ends it.
#[derive(Debug)]
pub(super) struct EventStream(mpsc::Receiver<Bytes>);

impl Feed {
    #[must_use]
    pub fn new(state: Arc<State>) -> Self {
        let (figures, slots) = (watch::Sender::default(), Arc::new(Semaphore::new(MAX_SUBSCRIBERS)));
        Self { state, history: Mutex::default(), figures, subscribed: Notify::new(), slots }
    }

    /// Samples the history, and publishes figures while anybody subscribes to them. Never returns.
    pub async fn run(self: Arc<Self>) {
        let mut new_events = self.state.events.subscribe();
        let [mut sample_tick, mut figures_tick] = [history::STEP, FIGURES_INTERVAL].map(interval);
        sample_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        figures_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // When figures were last published, and whether an event has occurred since.
        let (mut published, mut stale) = (Instant::now(), false);
        loop {
            let watched = !self.figures.is_closed();
            let pause = if stale { self.figures_pause() / 4 } else { self.figures_pause() };
            tokio::select! {
                _ = sample_tick.tick() => {
                    self.history().sample(&self.state.snapshot.load(), Instant::now(), SystemTime::now());
                }
                () = self.subscribed.notified(), if !watched => {}
                // Without subscribers, no timer wakes the thread.
                _ = figures_tick.tick(), if watched => {}
                // Never an error: `self` keeps the sender alive.
                _ = new_events.changed() => stale = watched,
                () = sleep_until((published + pause).into()), if stale => {}
            }
            if self.figures.is_closed() {
                stale = false;
            } else if published.elapsed() >= pause {
                self.figures.send_replace(self.figures_event());
                (published, stale) = (Instant::now(), false);
            }
        }
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock()
    }

    /// Admits a client whose last event was `last_id`. The error is a 503 if too many clients are subscribed.
    pub(super) fn subscribe(&self, last_id: Option<&str>, figures: bool) -> Result<Subscription, ApiError> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            ApiError::unavailable(format!("{MAX_SUBSCRIBERS} clients are subscribed already; try again later"))
        })?;
        Ok(Subscription { _slot: Arc::new(slot), last_id: last_id.map(|id| id.parse().ok()), figures })
    }

    /// The minimum time between two publications of figures. It is half an interval shorter than intended, because
    /// ticks are not exact. After an event, a quarter of it is enough.
    fn figures_pause(&self) -> Duration {
        self.figures_interval() - FIGURES_INTERVAL / 2
    }

    /// The time between two publications of figures.
    fn figures_interval(&self) -> Duration {
        let snapshot = self.state.snapshot.load();
        let servers: usize = snapshot.pools.iter().map(|pool| pool.members.len()).sum();
        let further = (servers + snapshot.routes.len()) / ENTRIES_PER_INTERVAL;
        FIGURES_INTERVAL * u32::try_from(1 + further).unwrap_or(u32::MAX)
    }

    fn figures_event(&self) -> Bytes {
        /// Figures with the newest point of the chart.
        #[derive(Serialize)]
        struct FiguresEventView<'a> {
            #[serde(flatten)]
            figures: FiguresView<'a>,
            sample: Option<SampleView>,
            /// When the next ones will follow.
            interval_seconds: u64,
        }
        let (snapshot, listeners, history) = (self.state.snapshot.load_full(), self.state.listeners(), self.history());
        let figures = FiguresView::new(&self.state, &snapshot, &listeners, &history);
        let sample = history.chart().next_back().map(SampleView::new);
        let interval_seconds = self.figures_interval().as_secs();
        encode("figures", None, &FiguresEventView { figures, sample, interval_seconds })
    }
}

impl Subscription {
    /// Starts the stream, which ends when `closing` closes or the client disconnects. Must be called on a runtime.
    pub(super) fn stream(self, feed: Arc<Feed>, closing: watch::Receiver<()>) -> EventStream {
        // Room for one, so that nothing piles up for a slow client.
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(self.send_events(feed, closing, sender));
        EventStream(receiver)
    }

    async fn send_events(self, feed: Arc<Feed>, mut closing: watch::Receiver<()>, sender: mpsc::Sender<Bytes>) {
        let events = &feed.state.events;
        let mut new_events = events.subscribe();
        let mut last_id = self.last_id.unwrap_or_else(|| Some(events.latest()));
        let mut figures = self.figures.then(|| feed.figures.subscribe());
        if figures.is_some() {
            feed.subscribed.notify_one();
        }
        // Sends an id without an event, so that a client that is disconnected before the first event can resume too.
        let id = last_id.map_or_else(String::new, |id| format!("id: {id}\n"));
        let mut next = Bytes::from(format!("retry: {RECONNECT_MS}\n{id}\n"));
        if figures.is_some() {
            next = [next, feed.figures_event()].concat().into();
        }
        // Events that the client missed are sent at once.
        new_events.mark_changed();
        loop {
            if !next.is_empty() {
                tokio::select! {
                    sent = sender.send(next) => if sent.is_err() { return },
                    _ = closing.changed() => return,
                }
            }
            next = tokio::select! {
                () = sender.closed() => return,
                _ = closing.changed() => return,
                _ = new_events.changed() => {
                    let mut text = Vec::new();
                    let after = events.after(last_id);
                    if after.missed {
                        text.extend(encode("gap", None, &GapView { kept: after.events.len() }));
                    }
                    last_id = Some(after.events.last().map_or_else(|| events.latest(), |(id, _)| *id));
                    text.extend(after.events.iter().flat_map(|(id, event)| encode_event(*id, event)));
                    text.into()
                }
                figures = next_figures(figures.as_mut()) => figures,
                () = sleep(KEEP_ALIVE) => Bytes::from_static(b": still here\n\n"),
            };
        }
    }
}

/// Tells a subscriber that events before the following ones are lost.
#[derive(Serialize)]
struct GapView {
    /// The number of events that were still kept; they follow.
    kept: usize,
}

/// Waits for new figures; forever without a subscription to them.
async fn next_figures(figures: Option<&mut watch::Receiver<Bytes>>) -> Bytes {
    if let Some(figures) = figures
        && figures.changed().await.is_ok()
    {
        return figures.borrow_and_update().clone();
    }
    std::future::pending().await
}

fn encode_event(id: EventId, event: &Event) -> Bytes {
    match event {
        Event::Reload(reload) => encode("reload", Some(id), &ReloadView::new(reload)),
        Event::Health(change) => encode("health", Some(id), &HealthChangeView::new(change)),
    }
}

/// Encodes a server-sent event. One `data` line is enough, because JSON escapes line breaks.
fn encode(name: &str, id: Option<EventId>, data: &impl Serialize) -> Bytes {
    let mut text = format!("event: {name}\n");
    if let Some(id) = id {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "id: {id}");
    }
    match serde_json::to_string(data) {
        Ok(data) => {
            let _ = writeln!(text, "data: {data}");
        }
        Err(error) => tracing::error!(%error, "an event cannot be represented as JSON"),
    }
    text.push('\n');
    text.into()
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
