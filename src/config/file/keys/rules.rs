//! The tables that a pool inherits from the top level, with their keys.

use super::{KeySpec, POSITIVE_DURATION, TextFormat, UPSTREAM_TLS, ValueType, key, optional};

pub const RETRY: &[KeySpec] = &[
    key(
        "attempts",
        ValueType::Integer(0..=100),
        "retries after the first attempt. A request that was never sent may go to any other server; one that was sent is \
         retried only if its method is idempotent and it has no body. Servers that refuse connections while others are \
         left do not count, nor does sending such a request again because an idle connection had been closed",
    ),
    key(
        "budget",
        ValueType::Percent,
        "retries of sent requests, as a share of the requests of the last ten seconds, plus ten for when traffic is low \
         (`0%`: none at all); beyond it, failures are returned to the client. Each worker has its own budget",
    ),
    key(
        "statuses",
        ValueType::TextList(TextFormat::Statuses),
        "responses that are retried too: `[\"502-504\"]`; only if the request's method is idempotent and it has no body. \
         If no retry gets another response, the client gets the last one",
    ),
    key(
        "grpc",
        ValueType::Boolean,
        "`true`: a gRPC call is retried if its response is the status UNAVAILABLE without a message, and no more than 64 KiB \
         of the request have been sent",
    ),
];

pub const UPSTREAM: &[KeySpec] = &[
    key(
        "idle",
        POSITIVE_DURATION,
        "how long an unused connection to a server is kept; less if the server's `Keep-Alive` header says so",
    ),
    key(
        "idle_connections",
        ValueType::Integer(0..=1_000_000),
        "how many unused connections are kept per server and worker; the least recently used is closed first. 0: none",
    ),
    key(
        "resolve",
        ValueType::Choice(&["one"]),
        "`one`: a host name is one server, at whichever of its addresses answers",
    ),
    key(
        "protocol",
        ValueType::Choice(&["http/1.1", "h2", "auto"]),
        "the protocol to use with servers: `http/1.1`; `h2`: HTTP/2, also without TLS; `auto`: the one that the \
         server chooses by ALPN, so HTTP/1.1 without TLS",
    ),
    optional(
        "tls",
        ValueType::TableOrBoolean(UPSTREAM_TLS),
        "connect with TLS: `true`, or a table such as `tls = { ca = \"ca.pem\" }`",
    ),
    key(
        "proxy_protocol",
        ValueType::Choice(&["", "v1", "v2"]),
        "the version of the PROXY header that tells servers the client's address; empty: none",
    ),
];

pub const BALANCE: &[KeySpec] = &[
    key(
        "algorithm",
        ValueType::Choice(&["weighted-round-robin", "round-robin", "random", "least-connections"]),
        "`weighted-round-robin` gives each server exactly its share, `round-robin` takes each in turn, `random` draws \
         by weight, `least-connections` takes the server with the fewest open requests for its weight",
    ),
    optional(
        "sticky",
        ValueType::TableOrFalse(STICKY),
        "a cookie keeps a client with its server: `sticky = { cookie = \"lb\" }`",
    ),
];

/// `[balance.sticky]`
pub const STICKY: &[KeySpec] = &[
    key("cookie", ValueType::Text(TextFormat::Cookie), "the cookie's name"),
    key(
        "max_age",
        ValueType::Text(TextFormat::OptionalDuration),
        "how long a browser keeps it after the last request; empty: until the browser is closed",
    ),
];

pub const HEALTH: &[KeySpec] = &[
    key(
        "kind",
        ValueType::Choice(&["http", "tcp", "grpc", "none"]),
        "`http`: a GET request; `tcp`: a connection; `grpc`: a call of `grpc.health.v1.Health/Check`, which needs servers of \
         HTTP/2; `none`: a server always counts as up",
    ),
    key(
        "service",
        ValueType::Text(TextFormat::OptionalText),
        "the service that a `grpc` check asks for: `\"shop.Orders\"`; empty: the server as a whole",
    ),
    key(
        "path",
        ValueType::Text(TextFormat::Path),
        "the path that an `http` check requests. If the file does not set it, 404, 405 and 501 pass too: the server \
         answers, but has no such page",
    ),
    key("method", ValueType::Choice(&["GET", "HEAD", "OPTIONS", "POST"]), "the method of an `http` check"),
    key(
        "host",
        ValueType::Text(TextFormat::Authority),
        "the `Host` header of an `http` or `grpc` check: `\"shop.example.com\"`; empty: the server's address",
    ),
    key("port", ValueType::Integer(0..=65_535), "the port that is checked; 0: the server's own"),
    key(
        "headers",
        ValueType::TextTable,
        "more headers of an `http` or `grpc` check: `{ Authorization = \"Bearer ${TOKEN}\" }`",
    ),
    key(
        "body",
        ValueType::Text(TextFormat::OptionalText),
        "text that the response to an `http` check must contain; empty: any response",
    ),
    key("expect", ValueType::Text(TextFormat::Statuses), "statuses that pass: `\"200\"`, `\"200-299, 404\"`"),
    key("interval", POSITIVE_DURATION, "time from one check to the next, give or take a tenth"),
    key("retry", POSITIVE_DURATION, "the same after a failed check, but at most `interval`"),
    key("timeout", POSITIVE_DURATION, "how long a whole check may take"),
    key("rise", ValueType::Integer(1..=1000), "consecutive passed checks before a server that was down is up again"),
    key("fall", ValueType::Integer(1..=1000), "consecutive failed checks before a server is down"),
    key(
        "memory",
        ValueType::Text(TextFormat::OptionalPath),
        "path of the server's own Prometheus metrics; `process_resident_memory_bytes` is shown as its memory",
    ),
    optional(
        "eject",
        ValueType::Table(EJECT),
        "when failed requests take a server out although its checks pass: `eject = { statuses = [\"503\"] }`",
    ),
];

/// `[health.eject]`
pub const EJECT: &[KeySpec] = &[
    optional("failures", ValueType::Integer(1..=1000), "consecutive failed requests; as many as `fall` if left out"),
    key(
        "statuses",
        ValueType::TextList(TextFormat::Statuses),
        "responses that count as failed requests: `[\"500\", \"502-504\"]`",
    ),
    key("max", ValueType::Percent, "the share of a pool's servers that may be out for failed requests at once"),
];
