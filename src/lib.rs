//! `lb`: a load balancer and gateway whose whole truth is one watched TOML file.

pub mod admin;
pub mod balance;
pub mod config;
pub mod counters;
pub mod health;
pub mod method;
pub mod pool;
pub mod registry;
pub mod reload;
pub mod route;
pub mod server;
pub mod snapshot;
pub mod state;
pub mod sticky;
pub mod telemetry;
