//! `lb`: a load balancer and gateway whose whole truth is one watched TOML file.

pub mod cli;
pub mod config;
