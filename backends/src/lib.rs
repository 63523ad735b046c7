//! The demo server behind `lb demo`, docker-compose.yml and the tests.
//!
//! [`Server`] accepts connections and drains them at shutdown. `route` maps paths, `app` responds, `trace` reads the trace
//! that a request belongs to, and `zipkin` reports this server's spans. Several servers can share one current-thread
//! runtime.
//!
//! | request | response |
//! | --- | --- |
//! | `GET /health` | 200 `ok`, or 503 `failing` |
//! | `POST /health/fail`, `POST /health/pass` | `/health` fails from now on, or passes again |
//! | `GET /metrics` | Prometheus text: the memory of the process, the number of requests |
//! | `GET /slow?seconds=1.5` | the description below, after that time; at most 60 seconds |
//! | `GET /stream?chunks=5&ms=100` | 5 lines, one every 100 milliseconds |
//! | `POST /echo` | the request's body, as it arrives |
//! | `GET /upgrade` with `Upgrade: echo` | 101, then every byte is sent back |
//! | anything else | a description: the server's name, then the request as it arrived; JSON if accepted |
//!
//! Every response has the server's name in `X-Served-By`.

mod app;
mod body;
mod client;
mod metrics;
mod route;
mod server;
mod trace;
mod zipkin;

pub use client::healthcheck;
pub use server::{Options, Server};
