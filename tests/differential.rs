//! Our parsers and hyper's read the same random bytes; a rule must explain each difference.
//!
//! `SEED=7 CASES=1000000 cargo test --test differential` runs other and more cases.

mod oracle;

use std::collections::BTreeMap;
use std::env;

use fastrand::Rng;
use http::Method;

use oracle::because::{Because, difference};
use oracle::{Reading, hyper, ours};

/// The alternatives for a part of a message. The first is the usual one and is chosen most of the time.
type Choice = &'static [&'static str];

const METHODS: Choice =
    &["POST", "GET", "HEAD", "OPTIONS", "PUT", "CONNECT", "TRACE", "X-Y!", "get", "", "G@T", "\u{e9}"];
const TARGETS: Choice = &[
    "/",
    "/a/b?c=d",
    "/a/../b",
    "/%61?%00",
    "/a|b",
    "//a",
    "http://b/x",
    "HTTP://b:80?q",
    "https://[::1]/",
    "*",
    "a:443",
    "a",
    "",
    "/a#b",
    "/\u{e9}",
    "/%zz",
    "/..",
    "/%c0%af",
    "/a b",
    "/\t",
    "ftp://a/",
    "http://",
    "http:///x",
    "http://u@b/",
    "/\"{}^`\\<>",
    "/?\"{}^`\\<>|",
    "/a\u{7f}",
];
const VERSIONS: Choice = &["HTTP/1.1", "HTTP/1.0", "HTTP/9.9", "http/1.1", "HTTP/1", "HTTP/1.2", "HTTP/2.0", ""];
const HOSTS: Choice = &[
    "Host: a¶",
    "",
    "Host: a¶Host: a¶",
    "Host:¶",
    "Host: a/b¶",
    "Host: u@a¶",
    "Host: a, b¶",
    "Host: a:99999¶",
    "Host: a:b¶",
    "Host: [::1¶",
    "Host: a b¶",
    "Host: .a¶",
    "Host: a..b¶",
    "Host: API.Example.COM.¶",
    "host:a:80¶",
    "Host: [::1]:80¶",
    "HOST: \u{e9}¶",
];
const FRAMINGS: Choice = &[
    "",
    "Content-Length: 5¶",
    "Transfer-Encoding: chunked¶",
    "Transfer-Encoding: Chunked¶",
    "Content-Length: 6¶Transfer-Encoding: chunked¶",
    "Transfer-Encoding: chunked¶Content-Length: 6¶",
    "Content-Length: 5¶Content-Length: 10¶",
    "Content-Length: 5¶Content-Length: 5¶",
    "Content-Length: 5, 10¶",
    "Content-Length: 5, 5¶",
    "Content-Length: +5¶",
    "Content-Length: -1¶",
    "Content-Length: -0¶",
    "Content-Length: 0x5¶",
    "Content-Length: 1_0¶",
    "Content-Length: 1 0¶",
    "Content-Length: 5a¶",
    "Content-Length:¶",
    "Content-Length: 005¶",
    "Content-Length: 99999999999999999999¶",
    "Content-Length: 18446744073709551615¶",
    "Content-Length: 10000000000000000000¶",
    "Content-Length: 00000000000000000005¶",
    "Transfer-Encoding: xchunked¶",
    "Transfer-Encoding: identity¶",
    "Transfer-Encoding: gzip¶",
    "Transfer-Encoding: chunked, gzip¶",
    "Transfer-Encoding: gzip, chunked¶",
    "Transfer-Encoding: chunked, chunked¶",
    "Transfer-Encoding: , chunked¶",
    "Transfer-Encoding: chunked,¶",
    "Transfer-Encoding: chunked;a=b¶",
    "Transfer-Encoding: \"chunked\"¶",
    "Transfer-Encoding: \u{b}chunked¶",
    "Transfer-Encoding: chunked\u{e9}¶",
    "Transfer-Encoding:¶",
    "Transfer-Encoding : chunked¶",
    "Transfer-Encoding:¶ chunked¶",
    "Transfer-Encoding: chunked¶Transfer-Encoding: identity¶",
    "Transfer-Encoding: identity¶Transfer-Encoding: chunked¶",
    "Transfer-Encoding: chunked¶Transfer-Encoding: chunked¶",
    "Transfer_Encoding: chunked¶Content-Length: 5¶",
    "Transfer-Encoding: gzip¶Transfer-Encoding: chunked¶",
    " Transfer-Encoding: chunked¶",
    "content-length:5¶",
    "TRANSFER-ENCODING:\tchunked \t¶",
];
const OTHERS: Choice = &[
    "",
    "X: 1¶x: 2¶",
    "Connection: close¶",
    "Connection: keep-alive¶",
    "Connection: close, x¶",
    "Connection: x,,CLOSE¶",
    "Connection: keep-alive¶Connection: close¶",
    "Connection: keep-alive, close¶",
    "Connection: close¶Connection: keep-alive¶",
    "Connection: keep-alive\u{e9}¶",
    "Connection: \u{e9}, close¶",
    "Connection: upgrade¶Upgrade: foo¶",
    "Connection: Upgrade, HTTP2-Settings¶Upgrade: h2c¶HTTP2-Settings: x¶",
    "Expect: 100-continue¶",
    "X:¶",
    "X: \u{e9}\t¶",
    "X: a\rb¶",
    "X: a\0b¶",
    "X: \u{7}¶",
    "X: a\nY: b¶",
    ": x¶",
    "X[: x¶",
    "X\u{e9}: x¶",
    "X¶",
    "X: a¶ b¶",
    "X : a¶",
    "X: a\u{1}b¶",
    "TE: trailers¶Trailer: X¶",
];
const BODIES: Choice = &[
    "",
    "hello",
    "5¶hello¶0¶¶",
    "0¶¶",
    "a;x=y¶0123456789¶0¶¶",
    "5¶hello¶0¶X: 1¶Y: 2¶¶",
    "0x5¶hello¶0¶¶",
    "+5¶hello¶0¶¶",
    "-1¶hello¶0¶¶",
    " 5¶hello¶0¶¶",
    "5 ¶hello¶0¶¶",
    "5\t;a¶hello¶0¶¶",
    "5_0¶hello¶0¶¶",
    "¶hello¶0¶¶",
    "FFFFFFFFFFFFFFFF0¶hello¶0¶¶",
    "FFFFFFFFFFFFFFFF¶hello¶0¶¶",
    "00000000000000005¶hello¶0¶¶",
    "5¶hello!!¶0¶¶",
    "5¶hello0¶¶",
    "5\nhello\n0\n\n",
    "5;a\nhello¶0¶¶",
    "5;\0¶hello¶0¶¶",
    "5;a\rb¶hello¶0¶¶",
    "5¶hello",
    "5¶hel",
    "5¶hello¶0¶",
    "5¶hello¶0¶X: 1¶",
    "0¶Content-Length: 5¶Host: a¶X-Forwarded-For: b¶Transfer-Encoding: chunked¶¶",
    "0¶X¶¶",
    "0¶ X: 1¶¶",
    "0¶X: 1¶ 2¶¶",
    "0¶X : 1¶¶",
    "0¶: 1¶¶",
    "0¶X: \0¶¶",
    "0¶X: 1\n¶",
    "0¶X: 1\rY: 2¶¶",
    "0¶X: \u{e9}¶X:¶¶",
    "0;;=¶¶",
    "5;a=\"b\"¶hello¶0¶¶",
    "5;a=\"\n\"¶hello¶0¶¶",
    "5 ¶hello¶0 ¶¶",
    "000000000000000005¶hello¶0¶¶",
    "5\nhello¶0¶X : 1¶Y: 1¶ 2¶¶",
    "0¶GET / HTTP/1.1¶Host: a¶¶",
    "hello, and more",
];
const SUFFIXES: Choice = &[
    "",
    "GET /next HTTP/1.1¶Host: b¶¶",
    "¶GET /next HTTP/1.1¶Host: b¶¶",
    "0¶¶",
    "X",
    "¶",
    "\n",
    "HTTP/1.1 200 OK¶¶",
    "\0",
];
const ENDS: Choice = &["¶", "\n", "", "\r"];
const STATUSES: Choice = &[
    "HTTP/1.1 200 OK",
    "HTTP/1.1 204 No Content",
    "HTTP/1.1 304 Not Modified",
    "HTTP/1.0 200 OK",
    "HTTP/1.1 404 ",
    "HTTP/1.1 404",
    "HTTP/1.1 101 Switching Protocols",
    "HTTP/1.1 100 Continue¶¶HTTP/1.1 200 OK",
    "HTTP/1.1 103 Hints¶X: 1¶¶HTTP/1.1 500 No",
    "HTTP/1.1 99 X",
    "HTTP/1.1 099 X",
    "HTTP/1.1 1000 X",
    "HTTP/1.1 999 X",
    "HTTP/1.1 +20 X",
    "HTTP/1.1  200 OK",
    "HTTP/9.9 200 OK",
    "http/1.1 200 OK",
    "ICY 200 OK",
    "HTTP/1.1 200 \u{e9}",
    "HTTP/1.1 200 a\tb",
    "HTTP/1.1 200 a\0b",
    "HTTP/1.1 205 Reset",
    "HTTP/1.1 000 X",
    "HTTP/1.1\t200 OK",
    "¶HTTP/1.1 200 OK",
    "HTTP/1.1 100 Continue",
    "HTTP/1.1 100 Continue¶Content-Length: 5¶Transfer-Encoding: gzip¶¶HTTP/1.1 200 OK",
];

struct Dice(Rng);

impl Dice {
    /// Chooses one, mostly the first.
    fn pick(&mut self, choice: Choice) -> &'static str {
        if self.0.u8(..8) > 0 { choice[0] } else { self.any(choice) }
    }

    /// Chooses one at random.
    fn any(&mut self, choice: Choice) -> &'static str {
        choice[self.0.usize(..choice.len())]
    }

    /// Chooses a valid one half of the time.
    fn framing(&mut self) -> &'static str {
        if self.0.bool() { self.any(&FRAMINGS[..4]) } else { self.any(FRAMINGS) }
    }

    fn request(&mut self) -> Vec<u8> {
        let line = format!("{} {} {}", self.pick(METHODS), self.pick(TARGETS), self.pick(VERSIONS));
        let headers = [self.pick(HOSTS), self.framing(), self.pick(OTHERS)];
        let suffix = self.any(SUFFIXES);
        self.message(&line, headers, suffix)
    }

    fn response(&mut self) -> Vec<u8> {
        let line = self.pick(STATUSES).to_owned();
        let headers = [self.framing(), self.pick(OTHERS), ""];
        let suffix = self.pick(SUFFIXES);
        self.message(&line, headers, suffix)
    }

    fn message(&mut self, line: &str, mut headers: [&str; 3], suffix: &str) -> Vec<u8> {
        self.0.shuffle(&mut headers);
        let headers = headers.concat();
        let body = match self.0.u8(..4) {
            0 => self.any(BODIES),
            1 if headers.to_ascii_lowercase().contains("chunked") => self.any(&BODIES[2..]),
            _ if headers.to_ascii_lowercase().contains("chunked") => self.any(&BODIES[2..6]),
            _ if headers.contains('5') => BODIES[1],
            _ => "",
        };
        let text = [line, self.pick(ENDS), &headers, self.pick(ENDS), body, suffix].concat();
        let mut bytes = Vec::with_capacity(text.len() + 16);
        // `\u{e9}` becomes a single byte, which is not UTF-8.
        for part in text.replace('¶', "\r\n").split_inclusive('\u{e9}') {
            let (part, rest) = part.strip_suffix('\u{e9}').map_or((part, None), |part| (part, Some(0xe9)));
            bytes.extend_from_slice(part.as_bytes());
            bytes.extend(rest);
        }
        self.mutate(&mut bytes);
        bytes
    }

    /// Sometimes changes, adds or removes a byte, truncates the message, or repeats its end.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..[0, 0, 0, 1, 1, 2][self.0.usize(..6)] {
            if bytes.is_empty() {
                return;
            }
            let at = self.0.usize(..bytes.len());
            match self.0.u8(..5) {
                0 => bytes[at] = self.0.u8(..),
                1 => bytes.insert(at, *self.0.choice(b"\r\n\n0;:, \t\0\x0b\xff#").expect("a byte")),
                2 => drop(bytes.remove(at)),
                3 => bytes.truncate(at),
                _ => bytes.extend_from_within(at..),
            }
        }
    }
}

/// The results of all comparisons.
#[derive(Default)]
struct Tally {
    /// The number of equal readings, by their number of messages.
    equal: BTreeMap<usize, usize>,
    explained: BTreeMap<Because, usize>,
    /// A description of each difference that no rule explains.
    unexplained: Vec<String>,
}

impl Tally {
    fn compare(
        &mut self,
        bytes: &[u8],
        method: Option<&Method>,
        (ours, stop): (Reading, Option<ours::StopReason>),
        theirs: &Reading,
    ) {
        match difference(&ours, stop, theirs) {
            None => *self.equal.entry(ours.messages.len()).or_default() += 1,
            Some(difference) => match difference.because(bytes, method) {
                Some(rule) => *self.explained.entry(rule).or_default() += 1,
                None => self.unexplained.push(format!("\"{}\"\n{difference:#?}", bytes.escape_ascii())),
            },
        }
    }

    /// Checks that every difference is explained, every rule was needed, and many readings were equal.
    fn check(&self, rules: &[Because]) {
        let count = self.unexplained.len();
        let some: Vec<_> = self.unexplained.iter().take(env_or("SHOW", 10)).map(String::as_str).collect();
        assert!(count == 0, "{count} differences that no rule explains:\n{}", some.join("\n"));
        assert!(self.explained.keys().eq(rules), "{:?} were needed, not {rules:?}", self.explained);
        assert!(self.equal[&0] > 1000 && self.equal[&1] > 1000, "{:?}", self.equal);
    }
}

fn env_or(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn dice() -> Dice {
    Dice(Rng::with_seed(env_or("SEED", 9112) as u64))
}

#[test]
fn requests_are_read_as_hyper_reads_them_or_a_rule_explains_the_difference() {
    let (mut dice, mut tally) = (dice(), Tally::default());
    for _ in 0..env_or("CASES", 20_000) {
        let bytes = dice.request();
        tally.compare(&bytes, None, ours::requests(&bytes), &hyper::requests(&bytes));
    }
    use Because::*;
    tally.check(&[
        BareLineFeed,
        UnfinishedLine,
        UnsupportedMethod,
        Host,
        Target,
        LengthBesideCoding,
        Codings,
        RepeatedLength,
        LengthDigits,
        ChunkSize,
        ChunkExtension,
        Trailers,
        TargetText,
        HyperTarget,
        ConnectionBytes,
    ]);
}

#[test]
fn responses_are_read_as_hyper_reads_them_or_a_rule_explains_the_difference() {
    let (mut dice, mut tally) = (dice(), Tally::default());
    for _ in 0..env_or("CASES", 20_000) {
        let (method, bytes) = ([Method::GET, Method::HEAD, Method::POST][dice.0.usize(..3)].clone(), dice.response());
        tally.compare(&bytes, Some(&method), ours::response(&method, &bytes), &hyper::response(&method, &bytes));
    }
    use Because::*;
    tally.check(&[
        UnfinishedLine,
        LengthBesideCoding,
        Codings,
        RepeatedLength,
        LengthDigits,
        ChunkExtension,
        Tolerance,
        Trailers,
        ConnectionBytes,
        FramingWithoutBody,
        UnrequestedUpgrade,
    ]);
}
