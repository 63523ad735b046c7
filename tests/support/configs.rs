//! Configurations and snapshots made by hand, without a file.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lb::config::{
    Address, Admin, Algorithm, Balance, Config, Health, HealthKind, Limits, Listener, Log, LogFormat, Pool, Proxy,
    Reload, Retry, Server, StatusRanges, Timeouts, Tracing,
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
    pub(crate) fn apply(&mut self, pools: Vec<Pool>) -> Snapshot {
        let config = Arc::new(config(pools));
        self.registry.apply(&config, Instant::now());
        self.count += 1;
        self.registry.snapshot(&config, self.count, "".into(), [].into(), SystemTime::now())
    }

    /// Ends the drains that are over; what is left.
    pub(crate) fn expire(&mut self, snapshot: Snapshot) -> Snapshot {
        self.registry.expire(&snapshot.config, Instant::now());
        let pools = self.registry.pools(&snapshot.config);
        Snapshot { pools, ..snapshot }
    }
}

/// Checks `/health` hourly, with all the time in the world; one result in a row decides.
pub(crate) fn health() -> Health {
    Health {
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
pub(crate) fn pool(name: &str, health: Health, addresses: &[SocketAddr]) -> Pool {
    let server = |(place, address): (usize, &SocketAddr)| Server {
        name: format!("{name}-{}", place + 1),
        address: Address::Ip(*address),
        weight: 1,
        enabled: true,
    };
    Pool {
        name: name.to_owned(),
        balance: Balance { algorithm: Algorithm::WeightedRoundRobin, sticky: None },
        health,
        retry: Retry { attempts: 2, budget: 0.2 },
        servers: addresses.iter().enumerate().map(server).collect(),
    }
}

fn config(mut pools: Vec<Pool>) -> Config {
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let second = Duration::from_secs(1);
    Config {
        listeners: vec![Listener { name: "all".to_owned(), address }],
        admin: Admin { address, hosts: Vec::new() },
        proxy: Proxy { trusted_proxies: Vec::new(), workers: 1 },
        reload: Reload {
            quiet: Duration::from_millis(50),
            poll: second,
            max_removed: 1.0,
            allow_empty: false,
            hold: Duration::ZERO,
            state_dir: None,
            history: 10,
        },
        log: Log { level: "info".to_owned(), format: LogFormat::Text, access: false },
        tracing: Tracing { zipkin: None, otlp: None, service: "lb".to_owned(), sample: 0.0 },
        timeouts: Timeouts {
            request_header: second,
            idle: second,
            connect: second,
            response_header: second,
            body_idle: second,
            drain: second,
        },
        limits: Limits { header_bytes: 32 * 1024, headers: 100, body_bytes: 0, body_rate: 64, connections: 0 },
        routes: Vec::new(),
        pools: pools.into_iter().map(Arc::new).collect(),
    }
}
