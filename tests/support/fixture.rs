//! Configurations and live states without files or sockets.

use std::net::SocketAddr;
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
        admin: config::AdminConfig::default(),
        proxy: config::ProxyConfig { workers: WORKERS, ..Default::default() },
        reload: config::ReloadConfig::default(),
        log: config::LogConfig::default(),
        tracing: config::TracingConfig::default(),
        timeouts: config::TimeoutsConfig::default(),
        limits: config::LimitsConfig::default(),
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
    config::PoolConfig {
        name: name.into(),
        balance: config::BalanceConfig::default(),
        health: config::HealthConfig::default(),
        retry: config::RetryConfig::default(),
        upstream: config::UpstreamConfig::default(),
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
