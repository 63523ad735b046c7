//! Each server's share of new requests, now and by another configuration. Pure.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::cli::api::ServerReply;
use crate::cli::table::percent;
use crate::config::{self, Config, HealthKind};
use crate::live::balance::{Candidate, Picker};

/// A smaller difference is none that a person would see.
const VISIBLE: f64 = 0.0005;

/// A server's share of the new requests for its pool, from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::cli) struct Portion {
    pub(in crate::cli) pool: String,
    pub(in crate::cli) name: String,
    /// `None`: it is not there.
    pub(in crate::cli) before: Option<f64>,
    /// `None`: it will not be there.
    pub(in crate::cli) after: Option<f64>,
    /// Why it is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) note: Option<&'static str>,
}

impl Portion {
    /// Whether it comes, goes, or gets visibly more or less.
    pub(in crate::cli) fn changes(&self) -> bool {
        match (self.before, self.after) {
            (Some(before), Some(after)) => (before - after).abs() >= VISIBLE,
            _ => true,
        }
    }
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), percent);
        write!(f, "{}/{}: {} -> {}", self.pool, self.name, share(self.before), share(self.after))?;
        self.note.map_or(Ok(()), |note| write!(f, " ({note})"))
    }
}

/// The servers of `new` in its order, then those that it has no more. `live` is how things are.
pub(in crate::cli) fn portions(live: &[ServerReply], new: &Config) -> Vec<Portion> {
    let mut known: Known<'_> = HashMap::new();
    for server in live {
        known.entry(&server.pool).or_default().entry(&server.name).or_default().push(server);
    }
    let mut portions = Vec::new();
    for pool in &new.pools {
        let lives = |name: &str| known.get(pool.name.as_str())?.get(name);
        let same = |server: &config::ServerConfig| {
            lives(&server.name)?.iter().find(|live| live.address == server.address).copied()
        };
        let takes = |server: &config::ServerConfig| {
            let well = pool.health.kind == HealthKind::None || same(server).is_none_or(ServerReply::is_well);
            server.enabled && server.weight > 0 && well
        };
        let candidates = (0..).zip(&pool.servers).filter(|(_, server)| takes(server));
        let candidates = candidates.map(|(index, server)| Candidate { index, weight: server.weight }).collect();
        let picker = Picker::new(pool.balance.algorithm, candidates);
        let mut after = vec![0.0; pool.servers.len()];
        for (index, share) in picker.shares() {
            after[index as usize] = share;
        }
        for (server, after) in pool.servers.iter().zip(after) {
            let before = lives(&server.name).map(|live| live.iter().map(|live| live.share).sum());
            portions.push(Portion {
                pool: pool.name.clone(),
                name: server.name.clone(),
                before,
                after: Some(after),
                note: note(server, same(server), pool.health.kind),
            });
        }
    }
    for server in live {
        let stays = new.pool(&server.pool).is_some_and(|pool| pool.servers.iter().any(|one| one.name == server.name));
        // Of those that an earlier edit removed nobody wants to know, unless they serve.
        if !stays && (server.share > 0.0 || server.status != crate::live::pool::Status::Draining) {
            portions.push(Portion {
                pool: server.pool.clone(),
                name: server.name.clone(),
                before: Some(server.share),
                after: None,
                note: Some("removed; its open requests finish"),
            });
        }
    }
    portions
}

/// Servers by pool and name: more than one where one has come at another address and the old one leaves.
type Known<'a> = HashMap<&'a str, HashMap<&'a str, Vec<&'a ServerReply>>>;

fn note(server: &config::ServerConfig, live: Option<&ServerReply>, kind: HealthKind) -> Option<&'static str> {
    match live {
        _ if !server.enabled => Some("disabled"),
        _ if server.weight == 0 => Some("weight 0"),
        _ if kind == HealthKind::None => None,
        None => Some("new: as soon as its first check has passed"),
        Some(live) if live.is_well() => None,
        Some(_) => Some("its checks fail"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::file::parse;
    use crate::config::source::SourceFile;

    fn live(name: &str, port: u16, status: &str, share: f64) -> ServerReply {
        serde_json::from_value(json!({
            "pool": "default", "name": name, "address": format!("127.0.0.1:{port}"), "weight": 1, "enabled": true,
            "status": status, "active_requests": 0, "requests_total": 0, "share": share, "last_check": null,
            "since": "2026-01-01T00:00:00Z",
        }))
        .expect("a server")
    }

    fn config(rules: &str, servers: &[(&str, u16, u32, bool)]) -> Config {
        let mut text = format!("[[listener]]\naddress = \"127.0.0.1:1\"\n{rules}\n");
        for (name, port, weight, enabled) in servers {
            text += &format!(
                "[[server]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\nweight = {weight}\nenabled = {enabled}\n"
            );
        }
        parse(&[SourceFile::new("lb.toml", text)], &|_| None).expect("a good file")
    }

    #[test]
    fn shares_follow_weights_health_and_what_comes_and_goes() {
        let now =
            [live("a", 1, "up", 0.5), live("b", 2, "up", 0.5), live("c", 3, "down", 0.0), live("d", 4, "up", 0.0)];
        let cases = [
            ("", &[("a", 1, 1, true), ("b", 2, 3, true)][..], &["a 0.5 0.25", "b 0.5 0.75", "c 0 -", "d 0 -"][..]),
            ("", &[("a", 1, 1, true), ("c", 3, 9, true)], &["a 0.5 1", "c 0 0", "b 0.5 -", "d 0 -"]),
            (
                "",
                &[("a", 1, 1, false), ("b", 2, 0, true), ("e", 5, 1, true)],
                &["a 0.5 0", "b 0.5 0", "e - 1", "c 0 -", "d 0 -"],
            ),
            (
                "[health]\nkind = \"none\"",
                &[("a", 1, 1, true), ("c", 3, 1, true)],
                &["a 0.5 0.5", "c 0 0.5", "b 0.5 -", "d 0 -"],
            ),
            // At another address it is another server.
            ("", &[("c", 9, 1, true)], &["c 0 1", "a 0.5 -", "b 0.5 -", "d 0 -"]),
            (
                "[balance]\nalgorithm = \"round-robin\"",
                &[("a", 1, 1, true), ("b", 2, 9, true)],
                &["a 0.5 0.5", "b 0.5 0.5", "c 0 -", "d 0 -"],
            ),
        ];
        for (rules, servers, expected) in cases {
            let told = portions(&now, &config(rules, servers));
            let share = |share: Option<f64>| share.map_or("-".to_owned(), |share| share.to_string());
            let told: Vec<String> =
                told.iter().map(|one| format!("{} {} {}", one.name, share(one.before), share(one.after))).collect();
            assert_eq!(told, expected, "{rules} {servers:?}");
        }
    }
}
