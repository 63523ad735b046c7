//! The demo server that `lb demo`, the composition and the tests balance over.
//!
//! [`Server`] accepts connections and drains them at the end; `route` tells what a path asks for,
//! `app` answers it; `trace` reads which trace a request belongs to, and `zipkin` reports this
//! server's spans of it.
//! All of it runs on a current-thread runtime, several servers in one process if need be.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /health` | 200 `ok`, or 503 `failing` |
//! | `POST /health/fail`, `POST /health/pass` | `/health` fails, or passes, from now on |
//! | `GET /metrics` | Prometheus text: the process's memory, the requests answered |
//! | `GET /slow?seconds=1.5` | the usual answer, after that long; at most 60 seconds |
//! | `GET /stream?chunks=5&ms=100` | that many lines, one every so many milliseconds |
//! | `POST /echo` | the request's body, as it comes in |
//! | `GET /upgrade` with `Upgrade: echo` | 101, then every byte back |
//! | anything else | its name as the first word, then what it saw of the request; JSON if accepted |
//!
//! Every answer carries `X-Served-By` with the server's name.

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
