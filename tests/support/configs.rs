//! Configurations and snapshots made by hand, without a file.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lb::config::{
    Address, AdminConfig, Algorithm, BalanceConfig, Config, HealthConfig, HealthKind, LimitsConfig, ListenerConfig,
    LogConfig, LogFormat, PoolConfig, ProxyConfig, ReloadConfig, RetryConfig, ServerConfig, StatusRanges,
    TimeoutsConfig, TracingConfig,
};
use lb::control::registry::Registry;
use lb::live::snapshot::Snapshot;

/// Generations in a row, each with its snapshot.
#[derive(Debug)]
pub(crate) struct Generations {
    registry: Registry,
    count: u64,
}

impl Generations {
    pub(crate) fn new() -> Self {
        Self { registry: Registry::new(1), count: 0 }
    }

    /// Accepts a configuration of these pools.
    pub(crate) fn apply(&mut self, pools: Vec<PoolConfig>) -> Snapshot {
        let config = Arc::new(config(pools));
        self.count += 1;
        let plan = self.registry.plan(&config, Instant::now());
        let snapshot = plan.snapshot(self.count, "".into(), [].into(), SystemTime::now());
        self.registry.commit(plan);
        snapshot
    }

    /// Ends the drains that are over; what is left.
    pub(crate) fn expire(&mut self, snapshot: Snapshot) -> Snapshot {
        self.registry.expire(&snapshot.config, Instant::now());
        let pools = self.registry.pools(&snapshot.config);
        Snapshot { pools, ..snapshot }
    }
}

/// Checks `/health` hourly, with all the time in the world; one result in a row decides.
pub(crate) fn health() -> HealthConfig {
    HealthConfig {
        kind: HealthKind::Http,
        path: "/health".to_owned(),
        expect: StatusRanges(vec![200..=399]),
        interval: Duration::from_secs(3600),
        timeout: Duration::from_secs(20),
        rise: NonZeroU32::MIN,
        fall: NonZeroU32::MIN,
        memory: None,
    }
}

/// A pool of servers at these addresses, each named after the pool and its place.
pub(crate) fn pool(name: &str, health: HealthConfig, addresses: &[SocketAddr]) -> PoolConfig {
    let server = |(place, address): (usize, &SocketAddr)| ServerConfig {
        name: format!("{name}-{}", place + 1),
        address: Address::Ip(*address),
        weight: 1,
        enabled: true,
    };
    PoolConfig {
        name: name.to_owned(),
        balance: BalanceConfig { algorithm: Algorithm::WeightedRoundRobin, sticky: None },
        health,
        retry: RetryConfig { attempts: 2, budget: 0.2 },
        servers: addresses.iter().enumerate().map(server).collect(),
    }
}

fn config(mut pools: Vec<PoolConfig>) -> Config {
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let second = Duration::from_secs(1);
    Config {
        listeners: vec![ListenerConfig { name: "all".to_owned(), address }],
        admin: AdminConfig { address, hosts: Vec::new() },
        proxy: ProxyConfig { trusted_proxies: Vec::new(), workers: 1 },
        reload: ReloadConfig {
            quiet: Duration::from_millis(50),
            poll: second,
            max_removed: 1.0,
            allow_empty: false,
            hold: Duration::ZERO,
            state_dir: None,
            history: 10,
        },
        log: LogConfig { level: "info".to_owned(), format: LogFormat::Text, access: false },
        tracing: TracingConfig { zipkin: None, otlp: None, service: "lb".to_owned(), sample: 0.0 },
        timeouts: TimeoutsConfig {
            request_header: second,
            idle: second,
            connect: second,
            response_header: second,
            body_idle: second,
            drain: second,
        },
        limits: LimitsConfig { header_bytes: 32 * 1024, headers: 100, body_bytes: 0, body_rate: 64, connections: 0 },
        routes: Vec::new(),
        pools: pools.into_iter().map(Arc::new).collect(),
    }
}
