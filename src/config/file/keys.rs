//! Every table of the file and the keys it knows, as data: the reader refuses the rest, and a
//! schema can be compared with it.

/// The keys of the file as a whole.
pub const ROOT: &[&str] = &[
    "include", "listener", "admin", "proxy", "reload", "log", "tracing", "timeouts", "limits", "retry", "balance",
    "health", "server", "route", "pool",
];
/// `[[listener]]`.
pub const LISTENER: &[&str] = &["address", "name", "tls"];
/// `[admin]`.
pub const ADMIN: &[&str] = &["address", "hosts"];
/// `[proxy]`.
pub const PROXY: &[&str] = &["trusted_proxies", "workers"];
/// `[reload]`.
pub const RELOAD: &[&str] = &["quiet", "poll", "max_removed", "allow_empty", "hold", "state_dir", "history"];
/// `[log]`.
pub const LOG: &[&str] = &["level", "format", "access"];
/// `[tracing]`.
pub const TRACING: &[&str] = &["zipkin", "otlp", "service", "sample"];
/// `[timeouts]`.
pub const TIMEOUTS: &[&str] = &["request_header", "idle", "connect", "response_header", "body_idle", "drain"];
/// `[limits]`.
pub const LIMITS: &[&str] = &["header_bytes", "headers", "body_bytes", "body_rate", "connections"];
/// `[retry]`.
pub const RETRY: &[&str] = &["attempts", "budget"];
/// `[balance]`.
pub const BALANCE: &[&str] = &["algorithm", "sticky"];
/// `[balance.sticky]`.
pub const STICKY: &[&str] = &["cookie", "max_age"];
/// `[health]`.
pub const HEALTH: &[&str] = &["kind", "path", "expect", "interval", "timeout", "rise", "fall", "memory"];
/// `[[server]]`.
pub const SERVER: &[&str] = &["name", "address", "weight", "enabled"];
/// `[[route]]`.
pub const ROUTE: &[&str] = &["name", "host", "path", "pool"];
/// `[pool.NAME]`.
pub const POOL: &[&str] = &["balance", "health", "retry", "server"];

/// The name of each table, as its header has it, with its keys; `*` stands for a pool's name.
pub const TABLES: &[(&str, &[&str])] = &[
    ("", ROOT),
    ("listener", LISTENER),
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
    ("server", SERVER),
    ("route", ROUTE),
    ("pool.*", POOL),
    ("pool.*.balance", BALANCE),
    ("pool.*.balance.sticky", STICKY),
    ("pool.*.health", HEALTH),
    ("pool.*.retry", RETRY),
    ("pool.*.server", SERVER),
];

/// The tables that are written `[[name]]`.
pub const ARRAYS: &[&str] = &["listener", "server", "route", "pool.*.server"];
