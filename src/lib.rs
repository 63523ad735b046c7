//! `lb`: a load balancer and gateway whose whole truth is one watched TOML file.
//!
//! Two planes meet at one pointer. The **control plane** (one thread, [`gateway`]; one more follows the
//! file, [`reload`]) takes edits in, checks servers and answers the admin address; the **data plane**
//! ([`worker`]s, one thread each) serves requests from an immutable [`snapshot`] and never waits for it.
//!
//! - From a file to a configuration: [`config`] (read, parse, resolve, compare, guard).
//! - From a configuration to a generation: [`reload`] follows the file, [`gateway`] applies it, the
//!   [`registry`] keeps what outlives it: every live [`server`], pool and route.
//! - From a request to an answer: [`listener`], [`worker`], [`proxy`], which asks the [`snapshot`] for
//!   a [`route`], its [`pool`] for a server ([`balance`], [`sticky`]), and the [`budget`] for retries.
//! - What is known of servers: [`health`], [`resolver`].
//! - What all of them share: the process' [`descriptors`].
//! - What people see: [`admin`], [`telemetry`], out of the [`state`], its [`counters`] and [`events`].
//! - What people type: [`cli`].

pub mod admin;
pub mod balance;
pub mod budget;
pub mod cli;
pub mod config;
pub mod counters;
pub mod descriptors;
pub mod events;
pub mod gateway;
pub mod health;
pub mod listener;
pub mod method;
pub mod pool;
pub mod proxy;
pub mod registry;
pub mod reload;
pub mod resolver;
pub mod route;
pub mod server;
pub mod snapshot;
pub mod state;
pub mod sticky;
pub mod telemetry;
pub mod worker;
