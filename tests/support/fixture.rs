//! Configurations and live states without files or sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lb::config::{self, Config};
use lb::control::registry::Registry;
use lb::live::server::Server;
use lb::live::snapshot::{FileVersion, Snapshot};
use lb::live::state::State;

/// Workers that have counters.
pub(crate) const WORKERS: usize = 2;

/// A live state, and the registry that builds it.
pub(crate) struct Fixture {
    pub(crate) state: Arc<State>,
    registry: Registry,
}

impl Fixture {
    /// Generation 1, `config`. Servers with health checks are unchecked, so they count as up.
    pub(crate) fn new(config: Config) -> Self {
        let mut registry = Registry::new(WORKERS);
        let state = Arc::new(State::new(snapshot(&mut registry, 1, &Arc::new(config))));
        Self { state, registry }
    }

    /// Applies the next generation. Removed servers drain.
    pub(crate) fn edit(&mut self, change: impl FnOnce(&mut Config)) {
        let old = self.state.snapshot.load_full();
        let mut config = (*old.config).clone();
        change(&mut config);
        self.state.snapshot.store(snapshot(&mut self.registry, old.generation + 1, &Arc::new(config)));
    }

    /// Sets the health of a server.
    pub(crate) fn health(&mut self, server: &str, state: lb::live::health::HealthState) {
        self.server(server).set_state(state);
        self.publish();
    }

    /// Ejects a server.
    pub(crate) fn eject(&mut self, server: &str, error: &str) {
        self.server(server).eject(error.to_owned(), false);
        self.publish();
    }

    fn publish(&mut self) {
        let old = self.state.snapshot.load_full();
        self.state.snapshot.store(Arc::new(self.registry.refresh(&old)));
    }

    /// Ends the drains that are over once `time` has passed.
    pub(crate) fn expire(&mut self, time: Duration) {
        let old = self.state.snapshot.load_full();
        let expired = self.registry.expire(&old.config, Instant::now() + time);
        assert!(!expired.is_empty(), "no drain has ended");
        self.publish();
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.state.snapshot.load_full()
    }

    /// The first live server with that name.
    pub(crate) fn server(&self, name: &str) -> Arc<Server> {
        let snapshot = self.state.snapshot.load_full();
        let mut members = snapshot.pools.iter().flat_map(|pool| &pool.members);
        let member = members.find(|member| &*member.server.key.name == name).expect("a server of that name");
        Arc::clone(&member.server)
    }
}

fn snapshot(registry: &mut Registry, generation: u64, config: &Arc<Config>) -> Arc<Snapshot> {
    let hash: Arc<str> = format!("{generation:064x}").into();
    let files = [FileVersion { path: "lb.toml".into(), hash: Arc::clone(&hash) }].into();
    let applied_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
    let plan = registry.plan(config, Instant::now(), |_| None);
    let snapshot = plan.snapshot(generation, hash, files, applied_at);
    registry.commit(plan);
    Arc::new(snapshot)
}

/// A configuration with these pools, sorted by name, and the defaults. Its route leads to the first pool.
pub(crate) fn config(pools: Vec<config::PoolConfig>) -> Config {
    let seconds = Duration::from_secs;
    let pools: Vec<_> = pools.into_iter().map(Arc::new).collect();
    let first = &pools.first().expect("a pool").name;
    Config {
        listeners: vec![config::ListenerConfig {
            name: "web".into(),
            address: loopback(8080).into(),
            protocols: vec![config::HttpProtocol::Http1],
            proxy_protocol: false,
            redirect: None,
            mode: config::SocketMode::default(),
            tls: None,
            env: config::EnvTexts::default(),
        }],
        certificates: Vec::new(),
        acme: config::AcmeConfig::default(),
        admin: config::AdminConfig { address: loopback(9900).into(), hosts: Vec::new() },
        proxy: config::ProxyConfig {
            trusted_proxies: Vec::new(),
            via: false,
            forwarded: config::ForwardedMode::XForwarded,
            path: config::PathMode::AsSent,
            workers: WORKERS,
        },
        reload: config::ReloadConfig {
            quiet: Duration::from_millis(50),
            poll: seconds(2),
            max_removed: 1.0,
            allow_empty: false,
            hold: seconds(10),
            hold_then: config::HoldThen::Keep,
            state_dir: None,
            history: 100,
        },
        log: config::LogConfig {
            level: "info".into(),
            format: config::LogFormat::Text,
            access: config::AccessLogTarget::Stdout,
            access_format: None,
            headers: Vec::new(),
        },
        tracing: config::TracingConfig { zipkin: None, otlp: None, service: "lb".into(), sample: 1.0 },
        timeouts: config::TimeoutsConfig {
            request_header: seconds(10),
            idle: seconds(75),
            connect: seconds(2),
            response_header: seconds(60),
            body_idle: seconds(60),
            tls_handshake: seconds(10),
            tunnel: seconds(3600),
            drain: seconds(30),
        },
        limits: config::LimitsConfig {
            header_bytes: 32 << 10,
            headers: 100,
            body_bytes: 0,
            body_rate: 64,
            connections: 0,
            connection_requests: 0,
            streams: 100,
            handshakes: 0,
        },
        routes: vec![config::RouteConfig {
            name: "all".into(),
            host: config::HostPattern::Any,
            path: "/".into(),
            pool: config::PoolRef::find(&pools, first).expect("pools sorted by name"),
            env: config::EnvTexts::default(),
        }],
        pools,
        env: config::EnvTexts::default(),
    }
}

/// A pool with the default settings.
pub(crate) fn pool(name: &str, servers: Vec<config::ServerConfig>) -> config::PoolConfig {
    let two = NonZeroU32::MIN.saturating_add(1);
    config::PoolConfig {
        name: name.into(),
        balance: config::BalanceConfig { algorithm: config::Algorithm::WeightedRoundRobin, sticky: None },
        health: config::HealthConfig {
            kind: config::HealthKind::Http,
            path: "/health".into(),
            default_path: true,
            method: config::CheckMethod::Get,
            host: None,
            port: 0,
            headers: BTreeMap::new(),
            body: None,
            expect: config::StatusRanges(vec![200..=399]),
            interval: Duration::from_secs(5),
            retry: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            rise: two,
            fall: two.saturating_add(1),
            memory: None,
            eject: config::EjectConfig { failures: None, statuses: Vec::new(), max: 0.5 },
        },
        retry: config::RetryConfig { attempts: 2, budget: 0.2, statuses: Vec::new() },
        upstream: config::UpstreamConfig {
            idle: Duration::from_secs(60),
            idle_connections: 1000,
            resolve: config::Resolve::One,
            protocol: config::UpstreamProtocol::Http1,
            tls: None,
            proxy_protocol: None,
        },
        servers,
        env: config::EnvTexts::default(),
    }
}

/// An enabled server at a loopback address that nothing connects to.
pub(crate) fn server(name: &str, port: u16, weight: u32) -> config::ServerConfig {
    config::ServerConfig {
        name: name.into(),
        address: config::Address::Ip(loopback(port)),
        weight,
        enabled: true,
        env: config::EnvTexts::default(),
    }
}

/// The pool `default`, its servers weighted 2, 3 and 6.
pub(crate) fn three() -> config::PoolConfig {
    pool("default", vec![server("server1", 8081, 2), server("server2", 8082, 3), server("server3", 8083, 6)])
}

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}
