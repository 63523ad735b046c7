//! The default of every key.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{
    AccessLogTarget, AcmeChallenge, AcmeConfig, AdminConfig, Algorithm, BalanceConfig, CheckMethod, EjectConfig,
    FilePath, ForwardedMode, HealthConfig, HealthKind, HoldThen, LimitsConfig, LogConfig, LogFormat, PathMode,
    ProxyConfig, ReloadConfig, Resolve, RetryConfig, StatusRanges, StickyConfig, TimeoutsConfig, TracingConfig,
    UpstreamConfig, UpstreamProtocol, UpstreamTlsConfig,
};

/// A server's default weight.
pub(crate) const WEIGHT: u32 = 1;

impl Default for AcmeConfig {
    fn default() -> Self {
        Self {
            directory: "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
            email: None,
            state_dir: FilePath { path: "acme".into(), base: PathBuf::new() },
            ca: None,
            challenge: AcmeChallenge::TlsAlpn,
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900).into(), hosts: Vec::new() }
    }
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            via: false,
            forwarded: ForwardedMode::XForwarded,
            path: PathMode::AsSent,
            workers: 0,
        }
    }
}

impl Default for ReloadConfig {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(50),
            poll: Duration::from_secs(2),
            max_removed: 1.0,
            allow_empty: false,
            hold: Duration::from_secs(10),
            hold_then: HoldThen::Keep,
            state_dir: None,
            history: 100,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
            access: AccessLogTarget::Stdout,
            access_format: None,
            headers: Vec::new(),
        }
    }
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self { zipkin: None, otlp: None, service: "lb".to_owned(), sample: 1.0 }
    }
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            request_header: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            connect: Duration::from_secs(2),
            response_header: Duration::from_secs(60),
            body_idle: Duration::from_secs(60),
            tls_handshake: Duration::from_secs(10),
            tunnel: Duration::from_secs(3600),
            stream_idle: Duration::from_secs(3600),
            drain: Duration::from_secs(30),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            header_bytes: 32 << 10,
            headers: 100,
            body_bytes: 0,
            body_rate: 64,
            connections: 0,
            connection_requests: 0,
            streams: 100,
            handshakes: 0,
        }
    }
}

impl Default for BalanceConfig {
    fn default() -> Self {
        Self { algorithm: Algorithm::WeightedRoundRobin, sticky: None }
    }
}

impl Default for StickyConfig {
    fn default() -> Self {
        Self { cookie: "lb".to_owned(), max_age: None }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            kind: HealthKind::Http,
            service: None,
            path: "/health".to_owned(),
            default_path: true,
            method: CheckMethod::Get,
            host: None,
            port: 0,
            headers: BTreeMap::new(),
            body: None,
            expect: StatusRanges(vec![200..=399]),
            interval: Duration::from_secs(5),
            retry: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            rise: NonZeroU32::MIN.saturating_add(1),
            fall: NonZeroU32::MIN.saturating_add(2),
            memory: None,
            eject: EjectConfig { failures: None, statuses: Vec::new(), max: 0.5 },
        }
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { attempts: 2, budget: 0.2, statuses: Vec::new(), grpc: false }
    }
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            idle_connections: 1000,
            resolve: Resolve::One,
            protocol: UpstreamProtocol::Http1,
            tls: None,
            proxy_protocol: None,
        }
    }
}

impl Default for UpstreamTlsConfig {
    fn default() -> Self {
        Self { ca: None, server_name: None, certificate: None, key: None, verify: true }
    }
}
