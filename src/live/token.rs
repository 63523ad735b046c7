//! Sticky sessions: the tokens by which a cookie leads a client back to its server. Pure.
//!
//! A token is made of keyed hashes of names. So it reveals no address, survives edits, restarts and changes of other servers,
//! and is the same on every replica with the same file.

use std::collections::HashMap;
use std::fmt::{self, Write};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::StickyConfig;
use crate::live::server::ServerKey;

/// The hash of a pool's and a server's name, in hexadecimal. Versions up to 0.1 used it alone as the token.
type NameHash = [u8; 16];

/// A server's name in cookies: hashes of its pool, its address and its name, in hexadecimal.
///
/// The name decides which server it is, so that a server may move. The pool and the address tell servers of the same name
/// apart if several balancers in a row share a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// `None` in a cookie that an earlier version has set.
    origin: Option<Origin>,
    name: NameHash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Origin {
    pool: [u8; 4],
    address: [u8; 4],
}

/// How much a token in a cookie says about a server of a pool, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// It names a server that the pool does not have, or one of another pool.
    None,
    /// It names a server of the pool but not its address: the server has moved, or another balancer has one of that name.
    Name,
    /// It is one that an earlier version has set for a server of the pool.
    Short,
    /// It is the server's token.
    Exact,
}

/// A pool's sticky sessions.
#[derive(Debug)]
pub struct Sticky {
    pub rule: StickyConfig,
    pool: [u8; 4],
    servers: HashMap<NameHash, Named>,
}

/// A server of the pool.
#[derive(Debug, Clone, Copy)]
struct Named {
    token: Token,
    /// Its index among the members, if it serves known clients.
    serving: Option<u32>,
}

impl Token {
    /// The length in a cookie, and that of a token that an earlier version has set.
    pub const LENGTH: usize = 24;
    const SHORT_LENGTH: usize = 16;

    /// Reads a token; `None` if it is not one.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let is_hex = |text: &[u8]| text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let origin = match text.len() {
            Self::SHORT_LENGTH => None,
            Self::LENGTH => Some(Origin { pool: text[..4].try_into().ok()?, address: text[4..8].try_into().ok()? }),
            _ => return None,
        };
        let name = text[text.len() - Self::SHORT_LENGTH..].try_into().ok()?;
        is_hex(text).then_some(Self { origin, name })
    }

    /// Whether an earlier version has set it.
    #[must_use]
    pub fn is_short(self) -> bool {
        self.origin.is_none()
    }

    /// Whether it leads to the server whose token is `server`, so that the client needs no other.
    #[must_use]
    pub fn suffices_for(self, server: Self) -> bool {
        self == server || self.is_short() && self.name == server.name
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.origin.map(|Origin { pool, address }| [pool, address]);
        let parts = origin.iter().flatten().map(<[u8; 4]>::as_slice).chain([self.name.as_slice()]);
        parts.flat_map(|part| part.iter()).try_for_each(|byte| f.write_char(char::from(*byte)))
    }
}

impl Sticky {
    /// The sessions of a pool without servers yet.
    #[must_use]
    pub fn new(rule: &StickyConfig, pool: &str) -> Self {
        Self { pool: hash(&Key::new(rule), &[b"pool", pool.as_bytes()]), rule: rule.clone(), servers: HashMap::new() }
    }

    /// Adds the servers of the pool, each with whether it serves clients whose cookie names it. Returns their tokens. If
    /// there are several of a name, cookies select the first that serves.
    pub fn add<'a>(&mut self, servers: impl Iterator<Item = (&'a ServerKey, bool)>) -> Vec<Token> {
        let key = Key::new(&self.rule);
        let mut add = |(index, (server, serves)): (u32, (&ServerKey, bool))| {
            let name = hash(&key, &[server.pool.as_bytes(), server.name.as_bytes()]);
            let address = hash(&key, &[b"address", server.address.to_string().as_bytes()]);
            let token = Token { origin: Some(Origin { pool: self.pool, address }), name };
            let named = Named { token, serving: serves.then_some(index) };
            let known = self.servers.entry(name).or_insert(named);
            if serves && known.serving.is_none() {
                *known = named;
            }
            token
        };
        (0..).zip(servers).map(&mut add).collect()
    }

    /// The index of the member that a token in a cookie selects.
    #[inline]
    #[must_use]
    pub fn member(&self, token: Token) -> Option<u32> {
        self.named(token)?.serving
    }

    /// How much a token in a cookie says about a server of this pool.
    #[must_use]
    pub fn recognise(&self, token: Token) -> Match {
        match self.named(token) {
            None => Match::None,
            Some(named) if named.token == token => Match::Exact,
            Some(_) if token.is_short() => Match::Short,
            Some(_) => Match::Name,
        }
    }

    /// Whether a token was set for a pool of this name.
    #[must_use]
    pub fn is_of_pool(&self, token: Token) -> bool {
        token.origin.is_some_and(|origin| origin.pool == self.pool)
    }

    /// A token of another pool costs a comparison, not a look-up.
    fn named(&self, token: Token) -> Option<&Named> {
        if token.is_short() || self.is_of_pool(token) { self.servers.get(&token.name) } else { None }
    }
}

/// The key of the hashes: the cookie's name.
struct Key(Option<Hmac<Sha256>>);

impl Key {
    fn new(rule: &StickyConfig) -> Self {
        // An HMAC (RFC 2104) takes keys of any length, so this cannot fail.
        Self(Hmac::new_from_slice(rule.cookie.as_bytes()).ok())
    }
}

/// The start of the hash of these parts, joined by slashes, in hexadecimal.
fn hash<const N: usize>(key: &Key, parts: &[&[u8]]) -> [u8; N] {
    // A hash that no cookie has is the safe choice.
    let Some(mut mac) = key.0.clone() else { return [b'-'; N] };
    for (place, part) in parts.iter().enumerate() {
        if place > 0 {
            mac.update(b"/");
        }
        mac.update(part);
    }
    let text = const_hex::Buffer::<32>::new()
        .const_format(&mac.finalize().into_bytes().into())
        .as_byte_array::<64>()
        .to_owned();
    std::array::from_fn(|i| text[i])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Address;

    fn rule(cookie: &str) -> StickyConfig {
        StickyConfig { cookie: cookie.to_owned(), max_age: None }
    }

    fn key(pool: &str, name: &str, port: u16) -> ServerKey {
        ServerKey { pool: pool.into(), name: name.into(), address: Address::Name("app".to_owned(), port) }
    }

    fn token(rule: &StickyConfig, key: &ServerKey) -> Token {
        Sticky::new(rule, &key.pool).add([(key, true)].into_iter())[0]
    }

    fn parse(text: &str) -> Token {
        Token::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn a_token_depends_only_on_cookie_pool_name_and_address() {
        let server = key("default", "server1", 1);
        let first = token(&rule("lb"), &server);
        let longer = StickyConfig { max_age: Some(Duration::from_secs(1)), ..rule("lb") };
        assert_eq!(first, token(&longer, &server));
        for (cookie, other) in [
            ("other", server.clone()),
            ("lb", key("api", "server1", 1)),
            ("lb", key("default", "server2", 1)),
            ("lb", key("default", "server1", 2)),
        ] {
            assert_ne!(first, token(&rule(cookie), &other), "{cookie} {other:?}");
        }
        assert_eq!(parse(&first.to_string()), first);
        // A different value would move every client to another server during a rolling upgrade.
        assert_eq!(&first.to_string()[8..], "0d5450a020da0588");
    }

    #[test]
    fn only_tokens_are_parsed() {
        for text in ["", "0", "0d5450a020da058", "0d5450a020da05880", "0D5450A020DA0588", "0d5450a020da058g"] {
            assert_eq!(Token::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse("0d5450a020da0588").to_string(), "0d5450a020da0588");
        assert!(parse("0d5450a020da0588").is_short());
    }

    #[test]
    fn a_pool_recognises_the_tokens_of_its_servers() {
        let (one, gone, moved) = (key("p", "one", 1), key("p", "gone", 2), key("p", "one", 9));
        let other = token(&rule("lb"), &key("q", "one", 1));
        let mut sticky = Sticky::new(&rule("lb"), "p");
        let tokens = sticky.add([(&one, true), (&gone, false)].into_iter());
        let short = parse(&tokens[0].to_string()[8..]);
        let unknown = token(&rule("lb"), &key("p", "unknown", 1));
        let cases = [
            (tokens[0], Match::Exact, Some(0), true),
            (tokens[1], Match::Exact, None, true),
            (token(&rule("lb"), &moved), Match::Name, Some(0), true),
            (short, Match::Short, Some(0), false),
            (other, Match::None, None, false),
            (unknown, Match::None, None, true),
        ];
        for (token, matches, member, is_of_pool) in cases {
            let got = (sticky.recognise(token), sticky.member(token), sticky.is_of_pool(token));
            assert_eq!(got, (matches, member, is_of_pool), "{token}");
        }
        assert!(short.suffices_for(tokens[0]) && tokens[0].suffices_for(tokens[0]));
        assert!(!short.suffices_for(tokens[1]) && !token(&rule("lb"), &moved).suffices_for(tokens[0]));
    }

    #[test]
    fn of_servers_with_one_name_a_token_selects_the_first_that_serves() {
        let (old, new) = (key("p", "one", 1), key("p", "one", 9));
        for (serves, expected) in [([true, true], Some(0)), ([false, true], Some(1)), ([false, false], None)] {
            let mut sticky = Sticky::new(&rule("lb"), "p");
            let tokens = sticky.add([&new, &old].into_iter().zip(serves));
            for token in tokens {
                assert_eq!(sticky.member(token), expected, "{serves:?}");
            }
        }
    }
}
