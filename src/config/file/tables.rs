//! Reads every table into a draft, in which each value has its type but nothing has been compared with anything else.

mod acme;
mod edge;
mod rules;

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::report::Report;
use crate::config::file::keys;
use crate::config::file::table_reader::{BooleanOr, TableReader};
use crate::config::file::tree::{Located, Location, TomlTable};
use crate::config::file::wording;
use crate::config::problem::Reason;
use crate::config::{
    AccessFormat, AccessLogTarget, AcmeConfig, Address, AdminConfig, CertificateConfig, DEFAULT_POOL, EnvTexts,
    FilePath, ForwardedMode, HoldThen, HostPattern, LimitsConfig, LogConfig, LogFormat, PathMode, ProxyConfig,
    ReloadConfig, TimeoutsConfig, TracingConfig, defaults, log_filter, values,
};

pub(super) use acme::DraftAcmeNames;
pub(super) use edge::DraftListener;
pub(super) use rules::DraftRules;

/// The file's values. An invalid one, which has been reported, is `None` or its default.
pub(super) struct Draft {
    pub(super) listeners: Vec<DraftListener>,
    pub(super) certificates: Vec<CertificateConfig>,
    pub(super) acme_names: Vec<DraftAcmeNames>,
    pub(super) acme: AcmeConfig,
    pub(super) admin: AdminConfig,
    /// `None` if the file does not set the admin address.
    pub(super) admin_location: Option<Location>,
    pub(super) proxy: ProxyConfig,
    pub(super) reload: ReloadConfig,
    pub(super) log: LogConfig,
    pub(super) tracing: TracingConfig,
    pub(super) timeouts: TimeoutsConfig,
    pub(super) limits: LimitsConfig,
    pub(super) routes: Vec<DraftRoute>,
    pub(super) pools: BTreeMap<String, DraftPool>,
    pub(super) env: EnvTexts,
    /// The top level's rules, for the pool `default` if the file does not have it.
    pub(super) rules: DraftRules,
}

pub(super) struct DraftRoute {
    pub(super) name: Option<Located<String>>,
    pub(super) host: Option<HostPattern>,
    pub(super) path: Option<String>,
    pub(super) pool: Option<Located<String>>,
    /// The problem if there is no such pool and its name may not be shown.
    pub(super) unknown_pool: Option<Reason>,
    pub(super) location: Location,
    pub(super) env: EnvTexts,
}

#[derive(Default)]
pub(super) struct DraftPool {
    pub(super) rules: DraftRules,
    pub(super) servers: Vec<DraftServer>,
}

pub(super) struct DraftServer {
    pub(super) name: Option<Located<String>>,
    pub(super) address: Option<Address>,
    pub(super) weight: Located<u32>,
    pub(super) enabled: bool,
    pub(super) env: EnvTexts,
}

/// The tables at the top level that are not about pools.
const SECTIONS: [&str; 8] = ["acme", "admin", "proxy", "reload", "log", "tracing", "timeouts", "limits"];

const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

const ACCESS_FORMATS: [(&str, AccessFormat); 3] =
    [("text", AccessFormat::Text), ("json", AccessFormat::Json), ("combined", AccessFormat::Combined)];

const FORWARDED_MODES: [(&str, ForwardedMode); 4] = [
    ("x-forwarded", ForwardedMode::XForwarded),
    ("forwarded", ForwardedMode::Forwarded),
    ("both", ForwardedMode::Both),
    ("none", ForwardedMode::None),
];

const PATH_MODES: [(&str, PathMode); 2] = [("as-sent", PathMode::AsSent), ("normalized", PathMode::Normalized)];

const HOLD_THEN: [(&str, HoldThen); 2] = [("keep", HoldThen::Keep), ("switch", HoldThen::Switch)];

/// Reads the merged tree of all files.
pub(super) fn read(root: &TomlTable<'_>, report: &Report<'_>) -> Draft {
    let root = TableReader::root(root, report);
    // `file::includes` has used it already; this only validates it.
    root.list("include", "a list of files", values::include);
    let (admin, admin_location) = admin(&root.table("admin", keys::ADMIN), report);
    let rules = rules::rules(&root, &DraftRules::default(), report);
    let mut acme_names = Vec::new();
    Draft {
        listeners: root.tables("listener", keys::LISTENER).iter().map(|t| edge::listener(t, report)).collect(),
        certificates: certificates(&root, &mut acme_names, report),
        acme_names,
        acme: acme::acme(&root.table("acme", keys::ACME), report),
        admin,
        admin_location,
        proxy: proxy(&root.table("proxy", keys::PROXY)),
        reload: reload(&root.table("reload", keys::RELOAD)),
        log: log(&root.table("log", keys::LOG), report),
        tracing: tracing(&root.table("tracing", keys::TRACING)),
        timeouts: timeouts(&root.table("timeouts", keys::TIMEOUTS)),
        limits: limits(&root.table("limits", keys::LIMITS)),
        routes: root.tables("route", keys::ROUTE).iter().map(route).collect(),
        pools: pools(&root, &rules, report),
        env: root.env_texts(|key| SECTIONS.contains(&key)),
        rules,
    }
}

fn certificates(
    root: &TableReader<'_>,
    acme_names: &mut Vec<DraftAcmeNames>,
    report: &Report<'_>,
) -> Vec<CertificateConfig> {
    let tables = root.tables("certificate", keys::CERTIFICATE);
    tables.iter().filter_map(|table| edge::certificate(table, acme_names, report)).collect()
}

fn admin(table: &TableReader<'_>, report: &Report<'_>) -> (AdminConfig, Option<Location>) {
    let default = AdminConfig::default();
    let base = table.key_location("address").map(|location| report.directory(location)).unwrap_or_default();
    let address =
        table.text("address", "an address such as \"127.0.0.1:9900\"", |text| values::listen_address_in(text, &base));
    let admin = AdminConfig {
        address: address.as_ref().map_or(default.address, |located| located.value.clone()),
        hosts: table.list("hosts", "a list of host names", values::host_name),
    };
    (admin, address.map(|located| located.location))
}

fn proxy(table: &TableReader<'_>) -> ProxyConfig {
    let default = ProxyConfig::default();
    ProxyConfig {
        trusted_proxies: table.list("trusted_proxies", "a list of networks", values::network),
        via: table.boolean("via", default.via),
        forwarded: table.choice("forwarded", &FORWARDED_MODES, default.forwarded),
        path: table.choice("path", &PATH_MODES, default.path),
        workers: table.integer("workers").map_or(default.workers, |located| located.value),
    }
}

fn reload(table: &TableReader<'_>) -> ReloadConfig {
    let default = ReloadConfig::default();
    let state_dir = |text: &str| {
        values::shell_syntax(text)?;
        Ok(Some(PathBuf::from(text)).filter(|_| !text.is_empty()))
    };
    ReloadConfig {
        quiet: table.duration("quiet", default.quiet),
        poll: table.duration("poll", default.poll),
        max_removed: table.percent("max_removed", default.max_removed),
        allow_empty: table.boolean("allow_empty", default.allow_empty),
        hold: table.duration("hold", default.hold),
        hold_then: table.choice("hold_then", &HOLD_THEN, default.hold_then),
        state_dir: table.text("state_dir", "a directory", state_dir).map_or(default.state_dir, |located| located.value),
        history: table.integer("history").map_or(default.history, |located| located.value),
    }
}

fn log(table: &TableReader<'_>, report: &Report<'_>) -> LogConfig {
    let default = LogConfig::default();
    let access = match table.boolean_or_text("access", "true, false or a file", values::log_file) {
        Some(BooleanOr::Boolean(false)) => AccessLogTarget::Off,
        Some(BooleanOr::Boolean(true)) => AccessLogTarget::Stdout,
        Some(BooleanOr::Text(Located { value: path, location })) => {
            AccessLogTarget::File(FilePath { path, base: report.directory(location) })
        }
        None => default.access,
    };
    LogConfig {
        level: table
            .text("level", "a level such as \"info\"", log_filter::parse)
            .map_or(default.level, |located| located.value),
        format: table.choice("format", &LOG_FORMATS, default.format),
        access,
        access_format: table.optional_choice("access_format", &ACCESS_FORMATS),
        headers: table.list("headers", "a list of header names", values::log_header),
    }
}

fn tracing(table: &TableReader<'_>) -> TracingConfig {
    let default = TracingConfig::default();
    let collector = |key| {
        let url = table.text(key, "a URL", values::collector)?.value?;
        Some(match table.typed(key) {
            Some(typed) => url.shown_as(typed),
            None => url,
        })
    };
    TracingConfig {
        zipkin: collector("zipkin"),
        otlp: collector("otlp"),
        service: table.text("service", "a name", values::label).map_or(default.service, |located| located.value),
        sample: table.number("sample", default.sample),
    }
}

fn timeouts(table: &TableReader<'_>) -> TimeoutsConfig {
    let default = TimeoutsConfig::default();
    TimeoutsConfig {
        request_header: table.duration("request_header", default.request_header),
        idle: table.duration("idle", default.idle),
        connect: table.duration("connect", default.connect),
        response_header: table.duration("response_header", default.response_header),
        body_idle: table.duration("body_idle", default.body_idle),
        tls_handshake: table.duration("tls_handshake", default.tls_handshake),
        tunnel: table.duration("tunnel", default.tunnel),
        stream_idle: table.duration("stream_idle", default.stream_idle),
        drain: table.duration("drain", default.drain),
    }
}

fn limits(table: &TableReader<'_>) -> LimitsConfig {
    let default = LimitsConfig::default();
    LimitsConfig {
        header_bytes: table.size("header_bytes", default.header_bytes),
        headers: table.integer("headers").map_or(default.headers, |located| located.value),
        body_bytes: table.size("body_bytes", default.body_bytes),
        body_rate: table.size("body_rate", default.body_rate),
        connections: table.integer("connections").map_or(default.connections, |located| located.value),
        connection_requests: table
            .integer("connection_requests")
            .map_or(default.connection_requests, |located| located.value),
        streams: table.integer("streams").map_or(default.streams, |located| located.value),
        handshakes: table.integer("handshakes").map_or(default.handshakes, |located| located.value),
    }
}

fn route(table: &TableReader<'_>) -> DraftRoute {
    let host = table.text("host", "a host such as \"api.example.com\"", values::host_pattern);
    let host = default_if_missing(table.has("host"), host, HostPattern::Any);
    let path = table.text("path", "a path such as \"/v1\"", values::route_path);
    let path = default_if_missing(table.has("path"), path, "/".to_owned());
    let pool = table.text("pool", "the name of a pool", values::name);
    let unknown_pool = table.template("pool").map(wording::no_pool_from_env);
    table.require("pool", &format!("\"{DEFAULT_POOL}\""));
    let location = table.location();
    let name = match (table.has("name"), &host, &path) {
        (true, ..) => table.text("name", "a name", values::label),
        (false, Some(host), Some(path)) => Some(Located { value: format!("{host}{path}"), location }),
        _ => None,
    };
    // The name of a pool stands in the file anyway.
    let mut env = table.env_texts(|key| key != "pool");
    if let (false, Some(host), Some(path)) = (table.has("name") || env.is_empty(), &host, &path) {
        let typed = env.show("host", host) + &env.show("path", path);
        env.insert("name".to_owned(), &typed, typed.contains("${"));
    }
    DraftRoute { name, host, path, pool, unknown_pool, location, env }
}

/// Returns the default for a key that is missing, but `None` for one that is invalid.
fn default_if_missing<T>(is_set: bool, value: Option<Located<T>>, default: T) -> Option<T> {
    if is_set { value.map(|located| located.value) } else { Some(default) }
}

/// The pool `default` of the top-level servers, and every `[pool.NAME]`.
fn pools(root: &TableReader<'_>, base: &DraftRules, report: &Report<'_>) -> BTreeMap<String, DraftPool> {
    let mut pools = BTreeMap::new();
    let servers = servers(root, report);
    if !servers.is_empty() {
        let rules = base.clone();
        pools.insert(DEFAULT_POOL.to_owned(), DraftPool { rules, servers });
    }
    for (name, table) in root.named("pool", keys::POOL) {
        if let Err(reason) = values::name(name.value) {
            report.at(name.location, reason);
        }
        // `[pool.default]` adds to the pool that the top level's servers form.
        let pool = pools.entry(name.value.to_owned()).or_default();
        pool.rules = rules::rules(&table, base, report);
        pool.servers.extend(self::servers(&table, report));
    }
    pools
}

fn servers(table: &TableReader<'_>, report: &Report<'_>) -> Vec<DraftServer> {
    table.tables("server", keys::SERVER).iter().map(|table| server(table, report)).collect()
}

fn server(table: &TableReader<'_>, report: &Report<'_>) -> DraftServer {
    table.require("name", "\"server1\"");
    table.require("address", "\"127.0.0.1:8081\"");
    let address = "an address such as \"127.0.0.1:8081\"";
    let base = table.key_location("address").map(|location| report.directory(location)).unwrap_or_default();
    DraftServer {
        name: table.text("name", "a name", values::name),
        address: table
            .text("address", address, |text| values::server_address_in(text, &base))
            .map(|located| located.value),
        weight: table.integer("weight").unwrap_or(Located { value: defaults::WEIGHT, location: table.location() }),
        enabled: table.boolean("enabled", true),
        env: table.env_texts(|_| true),
    }
}
