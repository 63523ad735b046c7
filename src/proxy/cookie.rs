//! The sticky-session cookie: read from requests and set by responses. Pure.
//!
//! One cookie may serve several pools, and several balancers in a row. Its value is up to eight tokens, the newest
//! last: each pool recognises its own and keeps the others. If the cookie has a lifetime, a stamp follows, by which it is
//! renewed while it is used: `TOKEN.TOKEN.tTIME-LIFETIME`, in hexadecimal seconds.

use std::fmt::Write;

use crate::http1::head::Headers;
use crate::http1::name::HeaderName;
use crate::live::token::{Match, Sticky, Token};

/// If there are more, the oldest goes.
const MAX_TOKENS: usize = 8;
/// Cookies of the name that are looked at; a browser has several if their paths or domains differ.
const MAX_COOKIES: usize = 4;
/// A cookie is renewed when this part of its lifetime may have passed.
const RENEWED_AFTER: u64 = 16;

/// A request's cookie, as far as it matters to its pool. Copying it is all that a request with a good cookie costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requested {
    /// The token that selects a server of the pool.
    pub token: Option<Token>,
    stamp: Option<Stamp>,
    /// Whether the client uses TLS, so that it never has to send the cookie without.
    pub secure: bool,
}

/// When a cookie was set and how long browsers keep it, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    set_at: u64,
    lifetime: u64,
}

/// Finds the cookie in a request's `Cookie` headers (RFC 6265, section 4.2).
#[must_use]
pub fn requested(sticky: &Sticky, headers: &Headers) -> Requested {
    let (mut best, mut found) = (Match::None, Requested::default());
    for value in values(&sticky.rule.cookie, headers) {
        for token in newest_first(value).filter(|token| sticky.member(*token).is_some()) {
            let matches = sticky.recognise(token);
            if matches > best {
                (best, found) = (matches, Requested { token: Some(token), stamp: Stamp::of(value), secure: false });
            }
            if matches == Match::Exact {
                return found;
            }
        }
    }
    found
}

/// Sets the cookie in a response of the server with this token, unless the client has it. `request` are the headers of
/// the request, `now` is the time in seconds since 1970.
///
/// If the server is itself a balancer that sets this cookie, the response has one `Set-Cookie` with the tokens of both.
pub fn set(
    sticky: &Sticky,
    requested: Requested,
    server: Token,
    (request, response): (&Headers, &mut Headers),
    now: u64,
) {
    let lifetime = sticky.rule.max_age.map(|age| age.as_secs());
    let is_good =
        requested.token.is_some_and(|token| token.suffices_for(server)) && !is_due(lifetime, requested.stamp, now);
    let inner = inner_cookie(&sticky.rule.cookie, response).map(<[u8]>::to_vec);
    if is_good && inner.is_none() {
        return;
    }
    let name = &sticky.rule.cookie;
    let mut stamp = values(name, request).find_map(Stamp::of);
    let mut tokens: Vec<Token> = Vec::new();
    let mut add = |token| {
        tokens.retain(|known| *known != token);
        tokens.push(token);
    };
    let inner = inner.as_deref();
    // The inner balancer has kept the others' tokens, unless it is of a version that sets a single short one.
    if !inner.is_some_and(|inner| newest_first(inner).any(|token| !token.is_short())) {
        values(name, request).flat_map(oldest_first).for_each(&mut add);
    }
    if let Some(inner) = inner {
        oldest_first(inner).for_each(&mut add);
        stamp = Stamp::of(inner).or(stamp);
        remove_inner_cookie(name, response);
    }
    tokens.retain(|token| match sticky.recognise(*token) {
        Match::Exact => false,
        // A short one may be that of an inner balancer.
        Match::Short => inner.is_some(),
        Match::None | Match::Name => true,
    });
    tokens.push(server);
    while tokens.len() > MAX_TOKENS {
        // First one of a server that the pool no longer has.
        let is_stale = |token: &Token| sticky.is_of_pool(*token) && *token != server;
        tokens.remove(tokens.iter().position(is_stale).unwrap_or(0));
    }
    let lifetime = longest(lifetime, stamp, now);
    let mut cookie = text(name, &tokens, lifetime, now);
    if requested.secure {
        cookie.push_str("; Secure");
    }
    response.add(HeaderName::SetCookie, cookie.as_bytes());
}

/// The `Set-Cookie` value (RFC 6265, section 4.1).
fn text(name: &str, tokens: &[Token], lifetime: Option<u64>, now: u64) -> String {
    let mut text = String::with_capacity(name.len() + tokens.len() * (Token::LENGTH + 1) + 80);
    let _ = write!(text, "{name}");
    for (place, token) in tokens.iter().enumerate() {
        let _ = write!(text, "{}{token}", if place == 0 { '=' } else { '.' });
    }
    if let Some(lifetime) = lifetime {
        let _ = write!(text, ".t{now:x}-{lifetime:x}; Max-Age={lifetime}");
    }
    text.push_str("; Path=/; HttpOnly; SameSite=Lax");
    text
}

/// Whether a cookie has to be renewed. A pool without a `max_age` renews the cookie for those that have one.
fn is_due(lifetime: Option<u64>, stamp: Option<Stamp>, now: u64) -> bool {
    let Some(lifetime) = lifetime.or(stamp.map(|stamp| stamp.lifetime)) else { return false };
    stamp.is_none_or(|stamp| stamp.rest(now) < lifetime - lifetime / RENEWED_AFTER)
}

/// The lifetime of a new cookie: the pool's, but no pool shortens that of another.
fn longest(lifetime: Option<u64>, stamp: Option<Stamp>, now: u64) -> Option<u64> {
    match (lifetime, stamp) {
        (None, stamp) => stamp.map(|stamp| stamp.lifetime),
        (Some(lifetime), stamp) => Some(lifetime.max(stamp.map_or(0, |stamp| stamp.rest(now)))),
    }
}

/// The value of a `Set-Cookie` that a balancer behind this one has set for the same name.
fn inner_cookie<'h>(name: &str, response: &'h Headers) -> Option<&'h [u8]> {
    response.all(HeaderName::SetCookie).filter_map(|cookie| tokens_of(name, cookie)).next_back()
}

fn remove_inner_cookie(name: &str, response: &mut Headers) {
    let others: Vec<Vec<u8>> = response
        .all(HeaderName::SetCookie)
        .filter(|cookie| tokens_of(name, cookie).is_none())
        .map(<[u8]>::to_vec)
        .collect();
    response.remove(HeaderName::SetCookie);
    others.iter().for_each(|cookie| response.add(HeaderName::SetCookie, cookie));
}

/// The value of a `Set-Cookie`, if a balancer has set it: for this name, the whole host, and with nothing but tokens.
fn tokens_of<'h>(name: &str, cookie: &'h [u8]) -> Option<&'h [u8]> {
    let mut parts = cookie.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let value = value_of(name, parts.next()?)?;
    let is_attribute = |part: &[u8], name: &str| {
        part.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
    };
    let is_of_balancer = |part: &[u8]| Token::parse(part).is_some() || Stamp::parse(part).is_some();
    let mut is_whole_host = false;
    for part in parts {
        if is_attribute(part, "Domain=") {
            return None;
        }
        is_whole_host |= part.eq_ignore_ascii_case(b"Path=/");
    }
    let is_ours = value.split(|byte| *byte == b'.').all(is_of_balancer) && newest_first(value).next().is_some();
    (is_whole_host && is_ours).then_some(value)
}

/// The values of the cookies of this name.
fn values<'h>(name: &str, headers: &'h Headers) -> impl Iterator<Item = &'h [u8]> {
    let pairs = headers.all(HeaderName::Cookie).flat_map(|cookies| cookies.split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| value_of(name, pair)).take(MAX_COOKIES)
}

/// The value of a pair, if it has this name. Some clients put spaces around `=`, and quotes around the value.
fn value_of<'h>(name: &str, pair: &'h [u8]) -> Option<&'h [u8]> {
    let rest = pair.trim_ascii_start().strip_prefix(name.as_bytes())?.trim_ascii_start();
    let value = rest.strip_prefix(b"=")?.trim_ascii();
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

/// The tokens of a value; of an overlong one, the last few.
fn newest_first(value: &[u8]) -> impl Iterator<Item = Token> {
    value.rsplit(|byte| *byte == b'.').take(MAX_TOKENS + 1).filter_map(Token::parse)
}

fn oldest_first(value: &[u8]) -> impl Iterator<Item = Token> {
    let tokens: Vec<Token> = newest_first(value).collect();
    tokens.into_iter().rev()
}

impl Stamp {
    /// The stamp at the end of a value.
    fn of(value: &[u8]) -> Option<Self> {
        Self::parse(value.rsplit(|byte| *byte == b'.').next()?)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (set_at, lifetime) = std::str::from_utf8(text.strip_prefix(b"t")?).ok()?.split_once('-')?;
        let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u64::from);
        Some(Self { set_at: number(set_at)?, lifetime: number(lifetime)? })
    }

    /// The time for which browsers keep the cookie at least. If the clock that set it is ahead, by as much less.
    fn rest(self, now: u64) -> u64 {
        self.lifetime.saturating_sub(now.abs_diff(self.set_at) + 1)
    }
}

#[cfg(test)]
mod tests;
