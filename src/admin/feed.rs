//! The feed: what followers of `/api/events` are sent, as server-sent events. Nobody is waited for: who is slow finds
//! the newest figures, and a word about the events that it missed.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use super::refusal::ApiError;
use crate::admin::figures::{Figures, Sample};
use crate::admin::view::{HealthChange, Reload};
use crate::live::events::{Event, EventId};
use crate::live::state::State;
use crate::telemetry::history::{self, History};

/// Followers at once.
const FOLLOWERS: usize = 100;
/// Something is sent at least so often, so that whoever stands in between does not take the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often figures are made, while anybody follows them …
const FIGURES: Duration = Duration::from_secs(1);
/// … and how many servers and routes make it so much rarer once more: they are long, and many.
const MANY: usize = 500;
/// What a follower does first when the connection is lost: wait so long, in milliseconds.
const RETRY: u32 = 1000;

/// What the feed is made from. One for the process.
#[derive(Debug)]
pub struct Feed {
    state: Arc<State>,
    history: Mutex<History>,
    /// The newest figures as an event; who follows them holds a receiver.
    figures: watch::Sender<Bytes>,
    slots: Arc<Semaphore>,
}

/// A follower to be: what an answer that is to become a stream carries.
#[derive(Debug, Clone)]
pub(super) struct Follower {
    /// Its place among the followers.
    _slot: Arc<OwnedSemaphorePermit>,
    /// What it saw last, as it says itself; `None` if it has not followed before.
    last: Option<Option<EventId>>,
    /// Whether it wants figures too.
    figures: bool,
}

/// The body of an answer that does not end by itself.
#[derive(Debug)]
pub(super) struct Stream(mpsc::Receiver<Bytes>);

impl Feed {
    /// A feed of `state`, without a history yet.
    #[must_use]
    pub fn new(state: Arc<State>) -> Self {
        let (figures, slots) = (watch::Sender::default(), Arc::new(Semaphore::new(FOLLOWERS)));
        Self { state, history: Mutex::default(), figures, slots }
    }

    /// Keeps history, and makes figures as long as anybody follows them. Does not end by itself.
    pub async fn run(self: Arc<Self>) {
        let mut news = self.state.events.subscribe();
        let [mut look, mut tick] = [history::STEP, FIGURES].map(interval);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // When figures were made, and whether something has happened since.
        let (mut made, mut stale) = (Instant::now(), false);
        loop {
            let pause = if stale { self.pause() / 4 } else { self.pause() };
            tokio::select! {
                _ = look.tick() => {
                    self.history().sample(&self.state.snapshot.load(), Instant::now(), SystemTime::now());
                }
                _ = tick.tick() => {}
                // It ends with the state, which this holds.
                _ = news.changed() => stale = true,
                () = sleep_until((made + pause).into()), if stale => {}
            }
            if self.figures.is_closed() {
                stale = false;
            } else if made.elapsed() >= pause {
                self.figures.send_replace(self.figures_event());
                (made, stale) = (Instant::now(), false);
            }
        }
    }

    /// The history now.
    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        // After a panic a look may be missing.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a follower, which was sent up to the event `last`.
    pub(super) fn follow(&self, last: Option<&str>, figures: bool) -> Result<Follower, ApiError> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            let detail = format!("{FOLLOWERS} clients follow the events already; try again when one has left");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        })?;
        Ok(Follower { _slot: Arc::new(slot), last: last.map(|id| id.parse().ok()), figures })
    }

    /// The time between figures; a little short of what it means, for ticks are not exact. When something happens, a
    /// part of it is enough.
    fn pause(&self) -> Duration {
        let snapshot = self.state.snapshot.load();
        let servers: usize = snapshot.pools.iter().map(|pool| pool.members.len()).sum();
        let steps = (servers + snapshot.routes.len()) / MANY;
        FIGURES / 2 + FIGURES * u32::try_from(steps).unwrap_or(u32::MAX)
    }

    fn figures_event(&self) -> Bytes {
        /// Figures with the chart's newest point.
        #[derive(Serialize)]
        struct WithSample<'a> {
            #[serde(flatten)]
            figures: Figures<'a>,
            sample: Option<Sample>,
        }
        let (snapshot, listeners, history) = (self.state.snapshot.load_full(), self.state.listeners(), self.history());
        let figures = Figures::new(&self.state, &snapshot, &listeners, &history);
        let sample = history.samples().next_back().map(Sample::new);
        event("figures", None, &WithSample { figures, sample })
    }
}

impl Follower {
    /// The stream of what happens, until `closing` closes or its reader has gone. To be called within a runtime.
    pub(super) fn stream(self, feed: Arc<Feed>, closing: watch::Receiver<()>) -> Stream {
        // One is on its way while the next waits: whoever reads slowly is not written ahead for.
        let (send, frames) = mpsc::channel(1);
        tokio::spawn(self.pump(feed, closing, send));
        Stream(frames)
    }

    async fn pump(self, feed: Arc<Feed>, mut closing: watch::Receiver<()>, send: mpsc::Sender<Bytes>) {
        let events = &feed.state.events;
        let mut news = events.subscribe();
        let mut at = self.last.unwrap_or_else(|| Some(events.latest()));
        let mut figures = self.figures.then(|| feed.figures.subscribe());
        // Without an event, the id alone: to go on from, should the connection be lost before there was any.
        let id = at.map_or_else(String::new, |id| format!("id: {id}\n"));
        let mut next = Bytes::from(format!("retry: {RETRY}\n{id}\n"));
        if figures.is_some() {
            next = [next, feed.figures_event()].concat().into();
        }
        // What came while it was away comes at once.
        news.mark_changed();
        loop {
            if !next.is_empty() {
                tokio::select! {
                    sent = send.send(next) => if sent.is_err() { return },
                    _ = closing.changed() => return,
                }
            }
            next = tokio::select! {
                () = send.closed() => return,
                _ = closing.changed() => return,
                _ = news.changed() => {
                    let mut text = Vec::new();
                    let after = events.after(at);
                    if after.missed {
                        text.extend(event("gap", None, &Gap { kept: after.events.len() }));
                    }
                    at = Some(after.events.last().map_or_else(|| events.latest(), |(id, _)| *id));
                    text.extend(after.events.iter().flat_map(|(id, happened)| told(*id, happened)));
                    text.into()
                }
                figures = newest(figures.as_mut()) => figures,
                () = sleep(KEEP_ALIVE) => Bytes::from_static(b": still here\n\n"),
            };
        }
    }
}

/// Events that came before those that follow are lost.
#[derive(Serialize)]
struct Gap {
    /// How many are sent again after this, as they are kept.
    kept: usize,
}

/// The figures once there are new ones; never, if none are wanted.
async fn newest(figures: Option<&mut watch::Receiver<Bytes>>) -> Bytes {
    if let Some(figures) = figures
        && figures.changed().await.is_ok()
    {
        return figures.borrow_and_update().clone();
    }
    std::future::pending().await
}

fn told(id: EventId, happened: &Event) -> Bytes {
    match happened {
        Event::Reload(reload) => event("reload", Some(id), &Reload::new(reload)),
        Event::Health(change) => event("health", Some(id), &HealthChange::new(change)),
    }
}

/// An event of the stream. JSON has no line breaks of its own, so it is one line.
fn event(name: &str, id: Option<EventId>, data: &impl Serialize) -> Bytes {
    let mut text = format!("event: {name}\n");
    if let Some(id) = id {
        // Writing to a string does not fail.
        let _ = writeln!(text, "id: {id}");
    }
    match serde_json::to_string(data) {
        Ok(data) => {
            let _ = writeln!(text, "data: {data}");
        }
        Err(error) => tracing::error!(%error, "an event cannot be told as JSON"),
    }
    text.push('\n');
    text.into()
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(task).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
