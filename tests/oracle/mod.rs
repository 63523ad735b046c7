//! A second opinion: what hyper makes of the bytes that we read, beside what we make of them.
//!
//! Both are reduced to a [`Reading`], and [`because`] has the rules by which two readings may differ.
#![allow(dead_code, reason = "every user has its own copy and uses a part of it")]

pub(crate) mod because;
pub(crate) mod hyper;
pub(crate) mod ours;

use std::fmt;

use http::Version;

/// What one reader makes of all bytes that come by a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The messages that are whole.
    pub(crate) messages: Vec<Message>,
    /// What comes behind them.
    pub(crate) end: End,
    /// How many bytes they take, if the reader tells.
    pub(crate) length: usize,
    /// The message that does not end, if the reader tells: without what of its body was read.
    pub(crate) unfinished: Option<Message>,
}

/// How the reading of a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With the last message: the reader takes no other, or none has begun.
    Whole,
    /// In the middle of a message.
    Cut,
    /// With what is no message.
    Refused,
}

/// A message, as far as two readers have to agree on it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Method and target, or the status.
    pub(crate) line: String,
    pub(crate) version: Version,
    /// HeaderSet in lower case and sorted; those of one name in the order they came in.
    pub(crate) headers: Vec<Header>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<Header>,
    /// Whether another message may follow.
    pub(crate) keeps: bool,
}

/// A field's name and value.
pub(crate) type Header = (String, Vec<u8>);

impl Message {
    /// The values of a field, in order.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |field| field.0 == name).map(|field| &field.1[..])
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers = |f: &mut fmt::Formatter<'_>, headers: &[Header]| {
            headers.iter().try_for_each(|(name, value)| write!(f, "; {name}: {}", value.escape_ascii()))
        };
        write!(f, "{} {:?}", self.line.escape_debug(), self.version)?;
        headers(f, &self.headers)?;
        write!(f, "; body \"{}\"", self.body.escape_ascii())?;
        headers(f, &self.trailers)?;
        f.write_str(if self.keeps { "; goes on" } else { "; the last" })
    }
}

/// Headers as readings have them.
fn sorted(headers: impl IntoIterator<Item = (impl Into<String>, impl Into<Vec<u8>>)>) -> Vec<Header> {
    let mut headers: Vec<_> =
        headers.into_iter().map(|(name, value)| (name.into().to_ascii_lowercase(), value.into())).collect();
    headers.sort_by(|one: &Header, other| one.0.cmp(&other.0));
    headers
}
