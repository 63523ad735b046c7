//! The request headers that the access log has, as received: where they are, because a header may be gone or replaced by the
//! time of the line.

use std::borrow::Cow;

use crate::config::{AccessFormat, AccessLogTarget, LogConfig};
use crate::http1::headers::{Headers, ValuePlace};
use crate::http1::name::HeaderName;
use crate::telemetry::access_log::access_format;

/// The places of one request's headers for the access log.
#[derive(Debug, Default)]
pub(super) struct LoggedHeaders {
    user_agent: ValuePlace,
    /// Only for the combined format.
    referer: ValuePlace,
    /// Those of `log.headers`, each with its index there.
    named: Vec<(usize, ValuePlace)>,
}

impl LoggedHeaders {
    /// The headers that a line as in `log` will have. Without an access log, none.
    pub(super) fn of(headers: &Headers, log: &LogConfig) -> Self {
        let mut logged = Self::default();
        if log.access == AccessLogTarget::Off {
            return logged;
        }
        let is_combined = access_format(log) == AccessFormat::Combined;
        let named: &[String] = if is_combined { &[] } else { &log.headers };
        for (id, name, place) in headers.places() {
            if id == HeaderName::Other {
                logged.note_usual(headers, name, place, is_combined);
            }
            let is_name = |wanted: &String| wanted.as_bytes().eq_ignore_ascii_case(name);
            logged.named.extend(named.iter().position(is_name).map(|index| (index, place)));
        }
        logged
    }

    fn note_usual(&mut self, headers: &Headers, name: &[u8], place: ValuePlace, is_combined: bool) {
        let usual = match name.len() {
            10 if name.eq_ignore_ascii_case(b"User-Agent") => &mut self.user_agent,
            7 if is_combined && name.eq_ignore_ascii_case(b"Referer") => &mut self.referer,
            _ => return,
        };
        if headers.value_at(*usual).is_none() {
            *usual = place;
        }
    }

    pub(super) fn user_agent<'a>(&self, headers: &'a Headers) -> Option<&'a [u8]> {
        headers.value_at(self.user_agent)
    }

    pub(super) fn referer<'a>(&self, headers: &'a Headers) -> Option<&'a [u8]> {
        headers.value_at(self.referer)
    }

    /// The headers of `log.headers` that the request had, each with all of its values.
    pub(super) fn named<'a>(&self, headers: &'a Headers, log: &'a LogConfig) -> Vec<(&'a str, Cow<'a, [u8]>)> {
        let mut values: Vec<(&str, Cow<'_, [u8]>)> = Vec::new();
        for (index, place) in &self.named {
            let (Some(name), Some(value)) = (log.headers.get(*index), headers.value_at(*place)) else { continue };
            match values.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => known.to_mut().extend([b", ", value].concat()),
                None => values.push((name, value.into())),
            }
        }
        values
    }
}
