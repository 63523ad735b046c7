//! Reads the tables that a pool inherits from the top level, key by key.

use std::num::NonZeroU32;

use super::Report;
use super::edge::{self, optional};
use crate::config::file::keys;
use crate::config::file::table_reader::TableReader;
use crate::config::file::tree::Location;
use crate::config::file::wording::DURATION;
use crate::config::problem::Reason;
use crate::config::{
    Algorithm, BalanceConfig, CheckMethod, EjectConfig, EnvTexts, HealthConfig, HealthKind, ProxyHeaderVersion,
    Resolve, RetryConfig, StatusRanges, StickyConfig, UpstreamConfig, UpstreamProtocol, values,
};

/// The rules that a pool inherits from the top level, key by key.
#[derive(Clone, Default)]
pub(in crate::config::file) struct DraftRules {
    pub(in crate::config::file) balance: BalanceConfig,
    pub(in crate::config::file) health: HealthConfig,
    pub(in crate::config::file) retry: RetryConfig,
    pub(in crate::config::file) upstream: UpstreamConfig,
    /// The place of `health.kind`, or else of `upstream.protocol`.
    pub(in crate::config::file) kind_at: Option<Location>,
    pub(in crate::config::file) env: EnvTexts,
}

/// The tables that a pool inherits.
const RULES: [&str; 4] = ["balance", "health", "retry", "upstream"];

const ALGORITHMS: [(&str, Algorithm); 4] = [
    ("weighted-round-robin", Algorithm::WeightedRoundRobin),
    ("round-robin", Algorithm::RoundRobin),
    ("random", Algorithm::Random),
    ("least-connections", Algorithm::LeastConnections),
];

const HEALTH_KINDS: [(&str, HealthKind); 4] =
    [("http", HealthKind::Http), ("tcp", HealthKind::Tcp), ("grpc", HealthKind::Grpc), ("none", HealthKind::None)];

const METHODS: [(&str, CheckMethod); 4] = [
    ("GET", CheckMethod::Get),
    ("HEAD", CheckMethod::Head),
    ("OPTIONS", CheckMethod::Options),
    ("POST", CheckMethod::Post),
];

const RESOLVE: [(&str, Resolve); 1] = [("one", Resolve::One)];

const PROTOCOLS: [(&str, UpstreamProtocol); 3] =
    [("http/1.1", UpstreamProtocol::Http1), ("h2", UpstreamProtocol::Http2), ("auto", UpstreamProtocol::Auto)];

const PROXY_HEADERS: [(&str, Option<ProxyHeaderVersion>); 3] =
    [("", None), ("v1", Some(ProxyHeaderVersion::V1)), ("v2", Some(ProxyHeaderVersion::V2))];

pub(super) fn rules(table: &TableReader<'_>, base: &DraftRules, report: &Report<'_>) -> DraftRules {
    let mut env = table.env_texts(|key| RULES.contains(&key));
    env.inherit(&base.env, |path| table.leaves_out(path));
    let (checks, servers) = (table.table("health", keys::HEALTH), table.table("upstream", keys::UPSTREAM));
    let kind_at = checks.key_location("kind").or_else(|| servers.key_location("protocol"));
    DraftRules {
        env,
        balance: balance(&table.table("balance", keys::BALANCE), &base.balance),
        health: health(&checks, &base.health),
        retry: retry(&table.table("retry", keys::RETRY), &base.retry),
        upstream: upstream(&servers, &base.upstream, report),
        kind_at: kind_at.or(base.kind_at),
    }
}

fn balance(table: &TableReader<'_>, base: &BalanceConfig) -> BalanceConfig {
    let sticky = if table.is_false("sticky") {
        None
    } else if table.has("sticky") {
        let base = base.sticky.clone().unwrap_or_default();
        let sticky = table.table("sticky", keys::STICKY);
        Some(StickyConfig {
            cookie: sticky
                .text("cookie", "a cookie's name", values::cookie_name)
                .map_or(base.cookie, |located| located.value),
            max_age: sticky
                .text("max_age", DURATION, values::sticky_max_age)
                .map_or(base.max_age, |located| located.value),
        })
    } else {
        base.sticky.clone()
    };
    BalanceConfig { algorithm: table.choice("algorithm", &ALGORITHMS, base.algorithm), sticky }
}

fn health(table: &TableReader<'_>, base: &HealthConfig) -> HealthConfig {
    let count = |key, default| {
        let count = table.integer(key).and_then(|located| NonZeroU32::new(located.value));
        count.unwrap_or(default)
    };
    let path = table.text("path", "a path such as \"/health\"", values::absolute_path);
    let health = HealthConfig {
        kind: table.choice("kind", &HEALTH_KINDS, base.kind),
        service: table
            .text("service", "a service such as \"shop.Orders\"", |text| optional(text, values::grpc_service))
            .map_or_else(|| base.service.clone(), |located| located.value),
        default_path: base.default_path && !table.has("path"),
        path: path.map_or_else(|| base.path.clone(), |located| located.value),
        method: table.choice("method", &METHODS, base.method),
        host: table
            .text("host", "a host such as \"shop.example.com\"", |text| optional(text, values::authority))
            .map_or_else(|| base.host.clone(), |located| located.value),
        port: table.integer("port").map_or(base.port, |located| located.value),
        headers: match table.has("headers") {
            true => table.text_table("headers", values::check_header).into_iter().collect(),
            false => base.headers.clone(),
        },
        body: table
            .text("body", "a text", |text| optional(text, values::check_body))
            .map_or_else(|| base.body.clone(), |located| located.value),
        expect: table
            .text("expect", "statuses such as \"200-399\"", values::status_ranges)
            .map_or_else(|| base.expect.clone(), |located| located.value),
        interval: table.duration("interval", base.interval),
        retry: table.duration("retry", base.retry),
        timeout: table.duration("timeout", base.timeout),
        rise: count("rise", base.rise),
        fall: count("fall", base.fall),
        memory: table
            .text("memory", "a path such as \"/metrics\"", |text| optional(text, values::absolute_path))
            .map_or_else(|| base.memory.clone(), |located| located.value),
        eject: eject(&table.table("eject", keys::EJECT), &base.eject),
    };
    if health.method == CheckMethod::Head && health.body.is_some() {
        let reason = Reason::new("the response to HEAD has no body, so it cannot contain `body`");
        table.conflict(&["body", "method"], reason.hint("write `method = \"GET\"`, or leave out `body`"));
    }
    health
}

fn eject(table: &TableReader<'_>, base: &EjectConfig) -> EjectConfig {
    let failures = table.integer("failures").and_then(|located| NonZeroU32::new(located.value));
    EjectConfig {
        failures: failures.or(base.failures),
        statuses: statuses(table, &base.statuses),
        max: table.percent("max", base.max),
    }
}

fn statuses(table: &TableReader<'_>, base: &[StatusRanges]) -> Vec<StatusRanges> {
    match table.has("statuses") {
        true => table.list("statuses", "a list of statuses", values::status_ranges),
        false => base.to_vec(),
    }
}

fn retry(table: &TableReader<'_>, base: &RetryConfig) -> RetryConfig {
    RetryConfig {
        attempts: table.integer("attempts").map_or(base.attempts, |located| located.value),
        budget: table.percent("budget", base.budget),
        statuses: statuses(table, &base.statuses),
        grpc: table.boolean("grpc", base.grpc),
    }
}

fn upstream(table: &TableReader<'_>, base: &UpstreamConfig, report: &Report<'_>) -> UpstreamConfig {
    UpstreamConfig {
        idle: table.duration("idle", base.idle),
        idle_connections: table.integer("idle_connections").map_or(base.idle_connections, |located| located.value),
        resolve: table.choice("resolve", &RESOLVE, base.resolve),
        protocol: table.choice("protocol", &PROTOCOLS, base.protocol),
        tls: edge::upstream_tls(table, base.tls.as_ref(), report),
        proxy_protocol: table.choice("proxy_protocol", &PROXY_HEADERS, base.proxy_protocol),
    }
}
