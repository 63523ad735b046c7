//! `lb`: a load balancer and gateway whose whole truth is one watched TOML file.

pub mod cli;
pub mod config;
pub mod counters;
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
