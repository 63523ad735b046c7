//! Response bodies: a text, the request's own body, or lines over time.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Interval, interval};

#[derive(Debug)]
pub(crate) enum ResponseBody {
    Text(Full<Bytes>),
    /// The body of the request, as it arrives.
    Echo(Incoming),
    Lines(Lines),
}

impl From<String> for ResponseBody {
    fn from(text: String) -> Self {
        Self::Text(Full::from(text))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Text(text) => Pin::new(text).poll_frame(context).map_err(|never| match never {}),
            Self::Echo(body) => Pin::new(body).poll_frame(context),
            Self::Lines(lines) => lines.poll_next(context).map(|line| line.map(|line| Ok(Frame::data(line)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_end_stream(),
            Self::Echo(body) => body.is_end_stream(),
            Self::Lines(lines) => lines.sent == lines.count,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => text.size_hint(),
            Self::Echo(body) => body.size_hint(),
            Self::Lines(_) => SizeHint::default(),
        }
    }
}

/// Numbered lines, the first one at once and then one per period.
#[derive(Debug)]
pub(crate) struct Lines {
    name: String,
    sent: u32,
    count: u32,
    ticks: Interval,
}

impl Lines {
    /// `count` lines that start with `name`. The period is at least a millisecond.
    pub(crate) fn new(name: String, count: u32, period: Duration) -> Self {
        Self { name, sent: 0, count, ticks: interval(period.max(Duration::from_millis(1))) }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.sent == self.count {
            return Poll::Ready(None);
        }
        ready!(self.ticks.poll_tick(context));
        self.sent += 1;
        let line = format!("{} {} of {}\n", self.name, self.sent, self.count);
        Poll::Ready(Some(Bytes::from(line)))
    }
}
