//! The names of all metrics, with their labels and help texts.
//!
//! They are part of the contract with dashboards and alerts: add, but do not rename.

use super::family::{Family, counter, gauge, histogram};

/// The labels of a server.
const SERVER: &[&str] = &["pool", "server"];

pub const REQUESTS: Family = counter(
    "lb_requests_total",
    "Client requests by response status; route \"-\" if none matched, code \"other\" after too many distinct statuses.",
    &["route", "method", "code"],
);
pub const GRPC_RESPONSES: Family = counter(
    "lb_grpc_responses_total",
    "gRPC calls by the status that their clients got; absent for a route without calls.",
    &["route", "status"],
);
pub const REQUEST_DURATION: Family =
    histogram("lb_request_duration_seconds", "Time from a request's head to the end of its response.", &["route"]);
pub const SERVER_REQUESTS: Family = counter(
    "lb_server_requests_total",
    "Responses of a server by status; attempts without a response are not counted.",
    &["pool", "server", "code"],
);
pub const SERVER_REQUEST_DURATION: Family = histogram(
    "lb_server_request_duration_seconds",
    "Time from the start of an attempt to the end of the server's response.",
    SERVER,
);
pub const SERVER_ACTIVE_REQUESTS: Family =
    gauge("lb_server_active_requests", "Requests in progress at a server.", SERVER);
pub const SERVER_CONNECTIONS: Family =
    gauge("lb_server_connections", "Open connections to a server, including idle ones.", SERVER);
pub const SERVER_MEMORY: Family =
    gauge("lb_server_memory_bytes", "Resident memory as reported by the server; absent if unknown.", SERVER);
pub const SERVER_UP: Family =
    gauge("lb_server_up", "1 if a server's health allows requests, whether or not it is enabled.", SERVER);
pub const SERVER_WEIGHT: Family = gauge("lb_server_weight", "A server's configured weight.", SERVER);
pub const SERVER_ENABLED: Family =
    gauge("lb_server_enabled", "1 if a server is configured and enabled, 0 if disabled or draining.", SERVER);
pub const SERVER_CHECKS: Family =
    counter("lb_server_checks_total", "Health checks of a server by result.", &["pool", "server", "result"]);
pub const SERVER_EJECTIONS: Family =
    counter("lb_server_ejections_total", "Times a server was ejected because its requests failed.", SERVER);
pub const RETRIES: Family =
    counter("lb_retries_total", "Retries by the reason why the previous attempt failed.", &["pool", "reason"]);
pub const POOL_HOLDING: Family =
    gauge("lb_pool_holding", "Whether old servers serve until one of the pool is up.", &["pool"]);
pub const POOL_ROUTED: Family = gauge("lb_pool_routed", "1 if a route leads to the pool, else 0.", &["pool"]);
pub const POOL_TLS_UNVERIFIED: Family = gauge(
    "lb_pool_tls_unverified",
    "1 if the servers of a pool with TLS are not verified, else 0; absent without TLS.",
    &["pool"],
);
pub const CLIENT_CONNECTIONS: Family =
    gauge("lb_client_connections", "Open client connections of a listener.", &["listener"]);
pub const CERTIFICATE_EXPIRY: Family = gauge(
    "lb_certificate_expiry_timestamp_seconds",
    "Unix time at which a certificate that listeners show expires; of its file as written in the configuration.",
    &["certificate"],
);
pub const CERTIFICATE_NOT_BEFORE: Family = gauge(
    "lb_certificate_not_before_timestamp_seconds",
    "Unix time from which a certificate that listeners show is valid.",
    &["certificate"],
);
pub const TLS_HANDSHAKES: Family =
    counter("lb_tls_handshakes_total", "TLS handshakes of clients by result.", &["listener", "result"]);
pub const CLIENT_CONNECTIONS_LIMIT: Family = gauge(
    "lb_client_connections_limit",
    "Maximum open client connections: the configured limit, or as many as file descriptors allow if that is fewer.",
    &[],
);
pub const CLIENTS_DELAYED: Family = counter(
    "lb_clients_delayed_total",
    "Clients delayed by the connection limit, not counting those still in the kernel's accept queue.",
    &[],
);
pub const GENERATION: Family = gauge("lb_config_generation", "Number of the active generation, from 1.", &[]);
pub const LAST_RELOAD_SUCCESSFUL: Family = gauge(
    "lb_config_last_reload_successful",
    "1 if the newest reload was neither rejected nor is pending, else 0.",
    &[],
);
/// Like Prometheus's own metric of this kind, it does not advance while edits are rejected.
pub const LAST_RELOAD_TIMESTAMP: Family =
    gauge("lb_config_last_reload_timestamp_seconds", "Unix time at which the active configuration was applied.", &[]);
pub const CONFIG_INFO: Family =
    gauge("lb_config_info", "The active configuration's SHA-256 as a label; the value is 1.", &["hash"]);
pub const UNWATCHED: Family =
    gauge("lb_config_unwatched_paths", "Paths without file events, whose changes are found only by polling.", &[]);
pub const OVERFLOWS: Family = counter(
    "lb_config_watch_overflows_total",
    "Times the system dropped file events, after which all files were read again.",
    &[],
);
pub const LAST_GOOD_SAVED: Family = gauge(
    "lb_config_last_good_saved",
    "1 if the last good copy is up to date or none is kept, 0 while it cannot be saved.",
    &[],
);
pub const RELOADS: Family = counter("lb_reloads_total", "Reloads by outcome.", &["result"]);
pub const RELOAD_DURATION: Family =
    histogram("lb_reload_duration_seconds", "Time from the detection of a changed file to the end of the reload.", &[]);
pub const ACME_ORDERS: Family = counter(
    "lb_acme_orders_total",
    "Certificates ordered by ACME, by outcome. Absent without such certificates.",
    &["result"],
);
pub const ACCESS_LOG_DROPPED_LINES: Family = counter(
    "lb_access_log_dropped_lines_total",
    "Access log lines dropped because the output was too slow or failed.",
    &[],
);
pub const LOG_DROPPED_LINES: Family = counter(
    "lb_log_dropped_lines_total",
    "Lines of the process's own log dropped because standard error was too slow or failed.",
    &[],
);
pub const SPANS_EXPORTED: Family = counter("lb_spans_exported_total", "Spans accepted by a collector.", &[]);
pub const SPANS_DROPPED: Family =
    counter("lb_spans_dropped_total", "Spans dropped before they were sent, or not accepted by a collector.", &[]);
pub const PANICS: Family = counter("lb_panics_total", "Requests and tasks ended by a panic.", &[]);
pub const BUILD_INFO: Family = gauge("lb_build_info", "The running version as a label; the value is 1.", &["version"]);
