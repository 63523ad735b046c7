//! One probe of a server: its health check, or the page that reports its memory.

use std::net::SocketAddr;

use http::Method;
use tokio::sync::oneshot;

use crate::config::{
    Address, CheckMethod, HealthConfig, HealthKind, HttpProtocol, LOCALHOST, PoolConfig, ProxyHeaderVersion,
    SocketAddress, UpstreamProtocol,
};
use crate::control::health::error::{CheckError, ResponseFault};
use crate::control::health::exchange::Exchange;
use crate::control::health::grpc::{self, HealthFault};
use crate::live::server::Server;
use crate::proxy::grpc::{message_in_trailers, status_in_trailers, timeout_text};
use crate::proxy_protocol::{self, HeaderSubject};
use crate::transport::connect::Targets;

const USER_AGENT: &str = concat!("lb-health/", env!("CARGO_PKG_VERSION"));

/// How the servers of a pool are checked, with those values in words that messages show: a value from the environment
/// is shown as typed.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckRule {
    pub config: HealthConfig,
    pub path: String,
    protocol: UpstreamProtocol,
    memory: String,
    expect: String,
    body: String,
    pub service: String,
    /// The version of the PROXY header that servers get, if any.
    proxy_header: Option<ProxyHeaderVersion>,
}

/// The result of a check.
#[derive(Debug, Default)]
pub struct Probe {
    /// The status of the response, if there was a valid one.
    pub status: Option<u16>,
    /// Why it failed.
    pub error: Option<CheckError>,
    /// Why it passed although the server has no such page.
    pub notice: Option<String>,
    /// The address that accepted the connection.
    pub peer: Option<SocketAddr>,
}

impl CheckRule {
    /// The rule of a pool.
    #[must_use]
    pub fn of(pool: &PoolConfig) -> Self {
        let (config, env) = (pool.health.clone(), &pool.env);
        let shown = |key: &str, value: &str| env.show(&format!("health.{key}"), &value);
        Self {
            path: shown("path", &config.path),
            memory: shown("memory", config.memory.as_deref().unwrap_or_default()),
            expect: shown("expect", &config.expect.to_string()),
            body: shown("body", config.body.as_deref().unwrap_or_default()),
            service: shown("service", config.service.as_deref().unwrap_or_default()),
            protocol: pool.upstream.protocol,
            // A port of its own is hardly one that needs the header.
            proxy_header: pool.upstream.proxy_protocol.filter(|_| config.port == 0),
            config,
        }
    }

    /// A rule whose values are shown as they are.
    #[cfg(test)]
    pub(super) fn new(config: HealthConfig) -> Self {
        Self::of(&PoolConfig {
            name: String::new(),
            balance: Default::default(),
            health: config,
            retry: Default::default(),
            upstream: Default::default(),
            servers: Vec::new(),
            env: Default::default(),
        })
    }

    pub(super) fn method(&self) -> Method {
        if self.config.kind == HealthKind::Grpc {
            return Method::POST;
        }
        match self.config.method {
            CheckMethod::Get => Method::GET,
            CheckMethod::Head => Method::HEAD,
            CheckMethod::Options => Method::OPTIONS,
            CheckMethod::Post => Method::POST,
        }
    }

    /// The request of a check, as messages name it.
    #[must_use]
    pub fn request(&self) -> String {
        let path = if self.config.kind == HealthKind::Grpc { grpc::PATH } else { &self.path };
        format!("{} {path}", self.method())
    }

    /// Whether this status says no more than that the server has no such page, and the file does not say that it should:
    /// nobody has chosen the path, the statuses or the body.
    fn lacks_page(&self, status: u16) -> bool {
        let HealthConfig { default_path, expect, body, .. } = &self.config;
        *default_path
            && body.is_none()
            && *expect == HealthConfig::default().expect
            && matches!(status, 404 | 405 | 501)
    }

    /// The addresses of `server` to check, in this order until one accepts.
    fn targets(&self, server: &Server) -> Vec<SocketAddress> {
        let with_port = |target: SocketAddress| match target {
            SocketAddress::Ip(target) => SocketAddr::new(target.ip(), self.port(target.port())).into(),
            SocketAddress::Unix(_) => target,
        };
        let targets = server.targets();
        targets.iter().flat_map(Targets::iter).map(with_port).collect()
    }

    /// The bytes of a request.
    fn head(&self, server: &Server, method: &Method, path: &str, accept: &str) -> Vec<u8> {
        self.head_with(server, method, path, &[("User-Agent", USER_AGENT), ("Accept", accept)])
    }

    /// The bytes of the head of a gRPC call.
    fn call(&self, server: &Server) -> Vec<u8> {
        let timeout = timeout_text(self.config.timeout);
        let usual = [
            ("User-Agent", USER_AGENT),
            ("Content-Type", "application/grpc"),
            ("TE", "trailers"),
            ("grpc-timeout", &timeout),
        ];
        self.head_with(server, &Method::POST, grpc::PATH, &usual)
    }

    /// The bytes of a head with these headers, unless the file sets them.
    fn head_with(&self, server: &Server, method: &Method, path: &str, usual: &[(&str, &str)]) -> Vec<u8> {
        let host = self.config.host.clone().unwrap_or_else(|| self.host(server));
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        let mut line = |name: &str, value: &str| head.extend([name, ": ", value, "\r\n"]);
        let sets = |name: &str| self.config.headers.keys().any(|set| set.eq_ignore_ascii_case(name));
        for (name, value) in usual {
            if !sets(name) {
                line(name, value);
            }
        }
        for (name, value) in &self.config.headers {
            line(name, value);
        }
        if *method == Method::POST && self.config.kind != HealthKind::Grpc {
            line("Content-Length", "0");
        }
        line("Connection", "close");
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// The address of `server` with the port to check, as `Host`.
    fn host(&self, server: &Server) -> String {
        match &server.key.address {
            Address::Ip(own) => SocketAddr::new(own.ip(), self.port(own.port())).to_string(),
            Address::Name(name, port) => format!("{name}:{}", self.port(*port)),
            Address::Unix(_) => LOCALHOST.to_owned(),
        }
    }

    /// The port to check of a server with this one.
    fn port(&self, own: u16) -> u16 {
        if self.config.port == 0 { own } else { self.config.port }
    }
}

/// Checks `server` once, according to `rule`. Sends the result to `known` as soon as there is one, and then ends the
/// exchange.
pub async fn check(server: &Server, rule: &CheckRule, known: oneshot::Sender<Probe>) {
    let mut probe = Probe::default();
    let mut exchange = match connect(server, rule).await {
        Ok(exchange) => exchange,
        Err(error) => {
            // Fails only if an edit has ended the checks, as below.
            let _ = known.send(Probe { error: Some(error), ..probe });
            return;
        }
    };
    probe.peer = exchange.peer();
    if matches!(rule.config.kind, HealthKind::Http | HealthKind::Grpc) {
        let called = match rule.config.kind {
            HealthKind::Grpc => call(&mut exchange, server, rule).await,
            _ => request(&mut exchange, server, rule).await,
        };
        match called {
            Ok(status) => {
                probe.status = Some(status);
                let is_page = rule.config.kind == HealthKind::Http;
                probe.notice = (is_page && rule.lacks_page(status)).then(|| notice(rule, status));
            }
            Err(fault) => {
                let error = CheckError::Response { request: rule.request(), fault };
                probe.status = error.status();
                probe.error = Some(error);
            }
        }
    }
    let _ = known.send(probe);
    exchange.finish().await;
}

/// Returns the status of the response, if it passes.
async fn request(exchange: &mut Exchange, server: &Server, rule: &CheckRule) -> Result<u16, ResponseFault> {
    let (config, method) = (&rule.config, rule.method());
    let status = exchange.send(&rule.head(server, &method, &config.path, "*/*"), &method).await?;
    if !config.expect.contains(status) && !rule.lacks_page(status) {
        return Err(ResponseFault::Status(status, rule.expect.clone()));
    }
    match &config.body {
        Some(body) if !exchange.contains(body.as_bytes()).await? => Err(ResponseFault::Missing(rule.body.clone())),
        _ => Ok(status),
    }
}

/// Calls the gRPC health service. Returns the status of the response, if it passes.
async fn call(exchange: &mut Exchange, server: &Server, rule: &CheckRule) -> Result<u16, ResponseFault> {
    let service = rule.config.service.as_deref().unwrap_or_default();
    let response = exchange.call(&rule.call(server), &grpc::request(service)).await?;
    if response.status != 200 {
        return Err(ResponseFault::Grpc(HealthFault::Http(response.status)));
    }
    if !response.is_whole {
        return Err(ResponseFault::Truncated);
    }
    let (code, text) = (status_in_trailers(&response.lines), message_in_trailers(&response.lines));
    grpc::judge(&rule.service, code, &text, &response.body).map_err(ResponseFault::Grpc)?;
    Ok(response.status)
}

fn notice(rule: &CheckRule, status: u16) -> String {
    format!(
        "{}: status {status}; counted as up, because `health.path` is not set; set it to a page that shows the server's \
         health, or `health.kind = \"tcp\"`",
        rule.request()
    )
}

/// Connects at the first of the server's addresses that accepts, and with TLS if requests use it, as requests do. At a port of its own, that says nothing
/// about the address that requests use.
async fn connect(server: &Server, rule: &CheckRule) -> Result<Exchange, CheckError> {
    let start = rule.proxy_header.map(|version| proxy_protocol::write(version, HeaderSubject::Own));
    let (tls, _) = server.tls();
    let targets = rule.targets(server);
    let plain = match rule.protocol {
        UpstreamProtocol::Http2 => HttpProtocol::Http2,
        UpstreamProtocol::Http1 | UpstreamProtocol::Auto => HttpProtocol::Http1,
    };
    let connected = Exchange::open(&targets, start.as_deref(), tls.as_deref(), plain, rule.config.timeout).await;
    if rule.protocol == UpstreamProtocol::Auto
        && rule.config.port == 0
        && let Ok(exchange) = &connected
    {
        server.chooses_protocol(exchange.protocol);
    }
    match connected.as_ref().map(Exchange::peer) {
        Ok(Some(peer)) if rule.config.port == 0 => server.connected_to(peer),
        Ok(_) => {}
        Err(_) => server.want_lookup(),
    }
    connected
}

/// GETs a whole page of `server`, at the address and with the headers of its checks. Returns its status and its body.
///
/// # Errors
/// Why there is no response.
pub async fn page(server: &Server, rule: &CheckRule, path: &str, accept: &str) -> Result<(u16, Vec<u8>), CheckError> {
    let mut exchange = connect(server, rule).await?;
    let read = async {
        let status = exchange.send(&rule.head(server, &Method::GET, path, accept), &Method::GET).await?;
        Ok((status, exchange.body().await?))
    };
    let response = read.await;
    exchange.finish().await;
    response.map_err(|fault| CheckError::Response { request: format!("GET {}", rule.memory), fault })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config::StatusRanges;
    use crate::live::health::HealthState;
    use crate::live::server::{ServerId, ServerKey};

    fn server(address: Address) -> Server {
        let key = ServerKey { pool: "default".into(), name: "server1".into(), address };
        Server::new(ServerId(1), key, HealthState::Up, 1)
    }

    #[test]
    fn a_missing_page_passes_only_if_the_file_says_nothing_about_the_response() {
        let default = HealthConfig::default;
        let set = HealthConfig { default_path: false, ..default() };
        let expecting = HealthConfig { expect: StatusRanges(vec![200..=200]), ..default() };
        let containing = HealthConfig { body: Some("ok".to_owned()), ..default() };
        let statuses = [400, 401, 403, 404, 405, 410, 500, 501, 503];
        let passing = |config| {
            let rule = CheckRule::new(config);
            statuses.into_iter().filter(|status| rule.lacks_page(*status)).collect::<Vec<_>>()
        };
        assert_eq!(passing(default()), [404, 405, 501]);
        for strict in [set, expecting, containing] {
            assert!(passing(strict).is_empty());
        }
    }

    #[test]
    fn requests_are_as_the_file_says() {
        let (ip, name) = (
            || server(Address::Ip("127.0.0.1:8081".parse().unwrap())),
            || server(Address::Name("app".to_owned(), 8081)),
        );
        let host = |host: &str| Some(host.to_owned());
        let port = 9090;
        let headers =
            [("user-agent", "probe"), ("X-A", "b c")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let default = HealthConfig::default;
        let usual = format!("User-Agent: {USER_AGENT}\r\nAccept: */*\r\n");
        let cases = [
            (default(), ip(), format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:8081\r\n{usual}")),
            (default(), name(), format!("GET / HTTP/1.1\r\nHost: app:8081\r\n{usual}")),
            (HealthConfig { port, ..default() }, ip(), format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:9090\r\n{usual}")),
            (HealthConfig { port, ..default() }, name(), format!("GET / HTTP/1.1\r\nHost: app:9090\r\n{usual}")),
            (
                HealthConfig { host: host("shop.example.com"), port, ..default() },
                ip(),
                format!("GET / HTTP/1.1\r\nHost: shop.example.com\r\n{usual}"),
            ),
            (
                HealthConfig { headers: headers.into(), ..default() },
                ip(),
                "GET / HTTP/1.1\r\nHost: 127.0.0.1:8081\r\nAccept: */*\r\nX-A: b c\r\nuser-agent: probe\r\n".to_owned(),
            ),
            (
                HealthConfig { method: CheckMethod::Head, ..default() },
                ip(),
                format!("HEAD / HTTP/1.1\r\nHost: 127.0.0.1:8081\r\n{usual}"),
            ),
            (
                HealthConfig { method: CheckMethod::Post, ..default() },
                ip(),
                format!("POST / HTTP/1.1\r\nHost: 127.0.0.1:8081\r\n{usual}Content-Length: 0\r\n"),
            ),
        ];
        for (config, server, expected) in cases {
            let rule = CheckRule::new(config);
            let head = rule.head(&server, &rule.method(), "/", "*/*");
            assert_eq!(String::from_utf8(head).unwrap(), format!("{expected}Connection: close\r\n\r\n"));
        }
    }

    #[test]
    fn another_port_is_that_of_every_address() {
        let server = server(Address::Ip("[::1]:8081".parse().unwrap()));
        let targets = |port| CheckRule::new(HealthConfig { port, ..HealthConfig::default() }).targets(&server);
        assert_eq!(targets(0), ["[::1]:8081".parse().unwrap()]);
        assert_eq!(targets(9090), ["[::1]:9090".parse().unwrap()]);
    }
}
