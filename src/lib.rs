//! `lb`: a load balancer and gateway configured by one TOML file that it reloads while running.
//!
//! Two planes meet at one pointer. The **control plane** (one thread, plus one that reads the files)
//! turns edits into generations, checks servers and serves the admin address. The **data plane**
//! (worker threads) serves each request from an immutable [snapshot](live::snapshot) and never waits
//! for the control plane.
//!
//! The modules; each imports only from those before it in this list:
//!
//! - [`config`]: from the text of the file to a [`config::Config`], or to every error in it. Pure.
//! - [`proxy_protocol`]: PROXY headers, by which a proxy tells a server who its client is. Pure.
//! - [`tls`]: certificates and TLS over byte buffers.
//! - [`transport`]: the only code on the request path that reads and writes sockets.
//! - [`http_client`]: one-shot requests, for exporters and commands.
//! - [`http1`]: HTTP/1.1 on both sides of a proxy.
//! - [`http2`]: HTTP/2, with the heads and rules of [`http1`].
//! - [`live`]: the state that both planes see: snapshot, routes, pools, servers, counters, events.
//! - [`telemetry`]: access log, metrics, traces, and the process's own log.
//! - [`proxy`]: one request, from its head to the end of its response.
//! - [`worker`]: the threads that accept connections and serve them.
//! - [`admin`]: the read-only HTTP API and the dashboard.
//! - [`control`]: reads, applies and records edits; checks and resolves servers; starts and stops both planes.
//! - [`cli`]: the commands.

pub mod admin;
pub mod cli;
pub mod config;
pub mod control;
pub mod http1;
pub mod http2;
pub mod http_client;
pub mod live;
pub mod proxy;
pub mod proxy_protocol;
pub mod telemetry;
pub mod tls;
pub mod transport;
pub mod worker;
