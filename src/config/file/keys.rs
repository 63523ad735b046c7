//! Every table of the file with the keys it may hold, as data. The reader rejects every other key, the schema is
//! generated from it, and a test compares the documentation with it.

mod edge;
mod rules;
mod spec;

pub use edge::{ACME, CERTIFICATE, LISTENER, LISTENER_TLS, UPSTREAM_TLS};
pub use rules::{BALANCE, EJECT, HEALTH, RETRY, STICKY, UPSTREAM};
pub use spec::{KeySpec, Presence, TextFormat, ValueType};

const fn key(name: &'static str, value: ValueType, about: &'static str) -> KeySpec {
    KeySpec { name, value, presence: Presence::Defaulted, about }
}

const fn required(name: &'static str, value: ValueType, about: &'static str) -> KeySpec {
    KeySpec { name, value, presence: Presence::Required, about }
}

const fn optional(name: &'static str, value: ValueType, about: &'static str) -> KeySpec {
    KeySpec { name, value, presence: Presence::Optional, about }
}

const DURATION: ValueType = ValueType::Duration { zero: true };
const POSITIVE_DURATION: ValueType = ValueType::Duration { zero: false };

pub const ROOT: &[KeySpec] = &[
    key(
        "include",
        ValueType::TextList(TextFormat::Files),
        "more files or globs, such as `[\"conf.d/*.toml\"]`, relative to the main file; \
         allowed only there, before the first table",
    ),
    optional("listener", ValueType::TableArray(LISTENER), "where clients connect; at least one is required"),
    optional(
        "certificate",
        ValueType::TableArray(CERTIFICATE),
        "a certificate for the listeners with `tls`; clients get the one that has the name they ask for",
    ),
    optional("acme", ValueType::Table(ACME), "how certificates with `acme = true` are ordered (RFC 8555)"),
    optional("admin", ValueType::Table(ADMIN), "the read-only API, the metrics and the dashboard"),
    optional("proxy", ValueType::Table(PROXY), "settings that apply to every request"),
    optional("reload", ValueType::Table(RELOAD), "how edits are read and guarded"),
    optional("log", ValueType::Table(LOG), "the process's own log and the access log"),
    optional("tracing", ValueType::Table(TRACING), "which spans are sent, and where"),
    optional("timeouts", ValueType::Table(TIMEOUTS), "how long each step of a request may take"),
    optional("limits", ValueType::Table(LIMITS), "limits on requests and connections"),
    optional("retry", ValueType::Table(RETRY), "when a failed attempt is retried"),
    optional("balance", ValueType::Table(BALANCE), "how a server is chosen"),
    optional("health", ValueType::Table(HEALTH), "how servers are checked"),
    optional("upstream", ValueType::Table(UPSTREAM), "how connections to servers are used"),
    optional("server", ValueType::TableArray(SERVER), "a server of the pool `default`"),
    optional(
        "route",
        ValueType::TableArray(ROUTE),
        "which pool serves which host and path; without any route, `default` serves everything",
    ),
    optional("pool", ValueType::NamedTables(POOL), "a named set of interchangeable servers, for routes to use"),
];

pub const ADMIN: &[KeySpec] = &[
    key(
        "address",
        ValueType::Text(TextFormat::Address),
        "where it listens, an address or `unix:PATH`. Anyone who can reach it can read everything: keep it private",
    ),
    key(
        "hosts",
        ValueType::TextList(TextFormat::Host),
        "host names accepted besides IP addresses and `localhost`; others get 403, so that no web page can read the API \
         through a browser (DNS rebinding)",
    ),
];

pub const PROXY: &[KeySpec] = &[
    key(
        "trusted_proxies",
        ValueType::TextList(TextFormat::Network),
        "networks (`\"10.0.0.0/8\"`) whose `X-Forwarded-*` and `Forwarded` are trusted and extended; those from anyone \
         else are replaced",
    ),
    key(
        "via",
        ValueType::Boolean,
        "add `Via` to requests and responses. Off, because nginx and IIS do not compress responses to requests that \
         have it",
    ),
    key(
        "forwarded",
        ValueType::Choice(&["x-forwarded", "forwarded", "both", "none"]),
        "which headers describe the client to servers: `x-forwarded` (`X-Forwarded-For`, `-Proto`, `-Host` and \
         `X-Real-IP`), `forwarded` (RFC 7239), `both` or `none`. What a trusted proxy sends in the other family is \
         translated; with `none` it passes as it is",
    ),
    key(
        "path",
        ValueType::Choice(&["as-sent", "normalized"]),
        "which path servers get: the bytes that the client sent, or the normalized path, by which routes match in either \
         case. A request whose two paths would take different routes gets 400",
    ),
    key(
        "workers",
        ValueType::Integer(0..=1024),
        "threads that serve requests; 0 means one per core. Takes effect at the next start",
    ),
];

pub const RELOAD: &[KeySpec] = &[
    key(
        "quiet",
        DURATION,
        "how long a file written in place must stay unchanged before it is read. A file that is renamed into place is read \
         at once, or after the same time if files are included, because others may follow",
    ),
    key(
        "poll",
        DURATION,
        "how often the content is compared, to catch changes that file events miss; `0s`: events only",
    ),
    key(
        "max_removed",
        ValueType::Percent,
        "reject an edit after which more than this share of the enabled servers of a pool that a route reaches get no more \
         traffic; servers count by their address. The limit of the running configuration applies, so raising it takes a \
         separate edit",
    ),
    key(
        "allow_empty",
        ValueType::Boolean,
        "allow an edit that leaves a pool without an enabled server; otherwise it is rejected",
    ),
    key(
        "hold",
        DURATION,
        "if an edit replaces all servers of a pool, or sends a route to a new pool, the old servers keep serving until a new \
         one passes a check; once that takes longer than this, it is a warning, and `hold_then` applies",
    ),
    key(
        "hold_then",
        ValueType::Choice(&["keep", "switch"]),
        "after `hold`: `keep` the old servers until a new one is up, or `switch` to the new ones although none is",
    ),
    key(
        "state_dir",
        ValueType::Text(TextFormat::Directory),
        "where the last good configuration is kept, to start from if the file is invalid; empty: nowhere",
    ),
    key("history", ValueType::Integer(1..=100_000), "how many reloads `/api/reloads` keeps"),
];

pub const LOG: &[KeySpec] = &[
    key(
        "level",
        ValueType::Text(TextFormat::Filter),
        "`error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,lb::health=debug`",
    ),
    key("format", ValueType::Choice(&["text", "json"]), "`text` or `json`, for both logs"),
    key(
        "access",
        ValueType::BooleanOrText(TextFormat::Files),
        "one line per request, on standard output, or in a file: `\"logs/access.log\"`, relative to the configuration \
         file. The process's own log goes to standard error",
    ),
    optional(
        "access_format",
        ValueType::Choice(&["text", "json", "combined"]),
        "the format of the access log: that of `format`, or another; `combined` is that of Apache and nginx",
    ),
    key(
        "headers",
        ValueType::TextList(TextFormat::HeaderName),
        "request headers to add to each line of the access log: `[\"Referer\"]`; headers with credentials are rejected",
    ),
];

pub const TRACING: &[KeySpec] = &[
    key(
        "zipkin",
        ValueType::Text(TextFormat::Url),
        "where to send spans in Zipkin's format: `http://127.0.0.1:9411/api/v2/spans`; empty: off",
    ),
    key(
        "otlp",
        ValueType::Text(TextFormat::Url),
        "where to send spans over OTLP/HTTP: `http://127.0.0.1:4318/v1/traces`; empty: off",
    ),
    key("service", ValueType::Text(TextFormat::Label), "the service name in spans"),
    key(
        "sample",
        ValueType::Number(0.0..=1.0),
        "the share of the traces started here that are sampled, 0 to 1. The decision that comes with a request is kept",
    ),
];

pub const TIMEOUTS: &[KeySpec] = &[
    key("request_header", POSITIVE_DURATION, "how long a client may take to send a request's head"),
    key("idle", POSITIVE_DURATION, "how long a client connection may stay open without a request"),
    key("connect", POSITIVE_DURATION, "how long connecting to a server may take"),
    key(
        "response_header",
        POSITIVE_DURATION,
        "how long a server may take to start its response, once the request has been sent",
    ),
    key("body_idle", POSITIVE_DURATION, "how long a body, in either direction, may go without a single byte"),
    key(
        "tls_handshake",
        POSITIVE_DURATION,
        "how long a client may take for its TLS handshake and, before that, for its PROXY header",
    ),
    key("tunnel", POSITIVE_DURATION, "how long a tunnel (a WebSocket, for example) may be silent in both directions"),
    key(
        "stream_idle",
        POSITIVE_DURATION,
        "how long a gRPC stream may go without a message, in either direction; it takes the place of `body_idle`",
    ),
    key(
        "drain",
        DURATION,
        "how long the open requests of a removed or disabled server, a closed listener, or the stopping process may take \
         to finish",
    ),
];

pub const LIMITS: &[KeySpec] = &[
    key(
        "header_bytes",
        ValueType::Size(256..=16 << 20),
        "size of a request's head; a larger one gets 431, or 414 if the request target alone is larger",
    ),
    key("headers", ValueType::Integer(1..=10_000), "number of headers in a request; a request with more gets 431"),
    key("body_bytes", ValueType::Size(0..=u64::MAX), "size of a request's body; a larger one gets 413. 0: no limit"),
    key(
        "body_rate",
        ValueType::Size(0..=1 << 30),
        "bytes per second, averaged over `timeouts.body_idle`: a client that reads a response or sends a body of known \
         length more slowly is disconnected; waiting for the server does not count. 0: no minimum",
    ),
    key(
        "connections",
        ValueType::Integer(0..=10_000_000),
        "concurrent client connections; further clients wait to be accepted. 0: as many as the process can hold",
    ),
    key(
        "connection_requests",
        ValueType::Integer(0..=1_000_000_000),
        "requests on one client connection; after them it is ended, without an error (`GOAWAY`, `Connection: close`). 0: no \
         limit",
    ),
    key("streams", ValueType::Integer(1..=10_000), "concurrent requests on one HTTP/2 connection of a client"),
    key(
        "handshakes",
        ValueType::Integer(0..=100_000),
        "concurrent TLS handshakes, counted from the client's hello; beyond the limit, new connections are closed. 0: 1,000 per \
         worker",
    ),
];

pub const SERVER: &[KeySpec] = &[
    required("name", ValueType::Text(TextFormat::Name), "unique in its pool; letters, digits, `.`, `_`, `-`"),
    required(
        "address",
        ValueType::Text(TextFormat::Address),
        "`host:port`, or `unix:PATH`; a host name is resolved repeatedly in the background",
    ),
    key(
        "weight",
        ValueType::Integer(0..=1000),
        "how many requests it gets relative to the pool's other servers, 0 to 1000. With 0 it gets no new clients; \
         those whose cookie names it still reach it",
    ),
    key(
        "enabled",
        ValueType::Boolean,
        "`false`: no new requests, from sticky clients neither; open ones finish within `timeouts.drain`",
    ),
];

pub const ROUTE: &[KeySpec] = &[
    optional("name", ValueType::Text(TextFormat::Label), "its name in metrics and logs"),
    key(
        "host",
        ValueType::Text(TextFormat::HostPattern),
        "which hosts it matches: `\"api.example.com\"`, `\"*.example.com\"`, or `*` for any",
    ),
    key("path", ValueType::Text(TextFormat::Path), "which paths it matches: those with this prefix, in whole segments"),
    required("pool", ValueType::Text(TextFormat::Name), "the pool that serves it: `default`, or one of `[pool.NAME]`"),
];

/// `[pool.NAME]`
pub const POOL: &[KeySpec] = &[
    optional(
        "balance",
        ValueType::Table(BALANCE),
        "how one of its servers is chosen; each key that is left out is taken from the top level",
    ),
    optional(
        "health",
        ValueType::Table(HEALTH),
        "how its servers are checked; each key that is left out is taken from the top level",
    ),
    optional(
        "retry",
        ValueType::Table(RETRY),
        "when a failed attempt is retried; each key that is left out is taken from the top level",
    ),
    optional(
        "upstream",
        ValueType::Table(UPSTREAM),
        "how connections to its servers are used; each key that is left out is taken from the top level",
    ),
    optional("server", ValueType::TableArray(SERVER), "the pool's servers, `[[pool.NAME.server]]`, like `[[server]]`"),
];

/// Each table's name, as in its header, with its keys; `*` stands for a pool's name.
pub const TABLES: &[(&str, &[KeySpec])] = &[
    ("", ROOT),
    ("listener", LISTENER),
    ("listener.tls", LISTENER_TLS),
    ("certificate", CERTIFICATE),
    ("acme", ACME),
    ("admin", ADMIN),
    ("proxy", PROXY),
    ("reload", RELOAD),
    ("log", LOG),
    ("tracing", TRACING),
    ("timeouts", TIMEOUTS),
    ("limits", LIMITS),
    ("retry", RETRY),
    ("balance", BALANCE),
    ("balance.sticky", STICKY),
    ("health", HEALTH),
    ("health.eject", EJECT),
    ("upstream", UPSTREAM),
    ("upstream.tls", UPSTREAM_TLS),
    ("server", SERVER),
    ("route", ROUTE),
    ("pool.*", POOL),
    ("pool.*.balance", BALANCE),
    ("pool.*.balance.sticky", STICKY),
    ("pool.*.health", HEALTH),
    ("pool.*.health.eject", EJECT),
    ("pool.*.retry", RETRY),
    ("pool.*.upstream", UPSTREAM),
    ("pool.*.upstream.tls", UPSTREAM_TLS),
    ("pool.*.server", SERVER),
];

/// The tables that are written `[[name]]`.
pub const ARRAYS: &[&str] = &["listener", "certificate", "server", "route", "pool.*.server"];

pub fn names(keys: &'static [KeySpec]) -> impl Iterator<Item = &'static str> + Clone {
    keys.iter().map(|key| key.name)
}
