//! Each server's share of new requests, now and with another configuration. Pure.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::cli::api::ServerReply;
use crate::cli::table::percent;
use crate::config::{Config, HealthKind, ServerConfig};
use crate::live::balance::{Candidate, Picker};
use crate::live::pool::Status;

/// Half of the last digit in the text. A smaller difference counts as none.
const MIN_VISIBLE: f64 = 0.0005;

/// A server's share of its pool's new requests, from 0 to 1, before and after an edit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::cli) struct ShareChange {
    pub(in crate::cli) pool: String,
    pub(in crate::cli) name: String,
    /// `None` if the pool has no server of this name yet.
    pub(in crate::cli) before: Option<f64>,
    /// `None` for a removed server.
    pub(in crate::cli) after: Option<f64>,
    /// An explanation of `after` for people, such as `disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) note: Option<&'static str>,
}

impl ShareChange {
    /// Whether the text shows a difference.
    pub(in crate::cli) fn is_visible(&self) -> bool {
        match (self.before, self.after) {
            (Some(before), Some(after)) => (before - after).abs() >= MIN_VISIBLE,
            _ => true,
        }
    }
}

impl fmt::Display for ShareChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), percent);
        write!(f, "{}/{}: {} -> {}", self.pool, self.name, share(self.before), share(self.after))?;
        self.note.map_or(Ok(()), |note| write!(f, " ({note})"))
    }
}

/// The change of each server's share: of the servers of `new`, in its order, then of those that it removes. `live` is
/// the current state of all servers. New servers count as if they had passed their first check.
pub(in crate::cli) fn share_changes(live: &[ServerReply], new: &Config) -> Vec<ShareChange> {
    let mut by_name = ServersByName::new();
    for server in live {
        by_name.entry(&server.pool).or_default().entry(&server.name).or_default().push(server);
    }
    let mut changes = Vec::new();
    for pool in &new.pools {
        let namesakes = |name: &str| by_name.get(pool.name.as_str())?.get(name);
        let same_server = |server: &ServerConfig| {
            namesakes(&server.name)?.iter().find(|live| live.address == server.address).copied()
        };
        let is_eligible = |server: &ServerConfig| {
            let healthy = pool.health.kind == HealthKind::None || same_server(server).is_none_or(ServerReply::is_well);
            server.enabled && server.weight > 0 && healthy
        };
        let candidates = (0..).zip(&pool.servers).filter(|(_, server)| is_eligible(server));
        let candidates = candidates.map(|(index, server)| Candidate { index, weight: server.weight }).collect();
        let picker = Picker::new(pool.balance.algorithm, candidates);
        let mut shares = vec![0.0; pool.servers.len()];
        for (index, share) in picker.shares() {
            shares[index as usize] = share;
        }
        for (server, after) in pool.servers.iter().zip(shares) {
            let before = namesakes(&server.name).map(|live| live.iter().map(|live| live.share).sum());
            changes.push(ShareChange {
                pool: pool.name.clone(),
                name: server.name.clone(),
                before,
                after: Some(after),
                note: note(server, same_server(server), pool.health.kind),
            });
        }
    }
    changes.extend(live.iter().filter(|server| is_removed(server, new)).map(|server| ShareChange {
        pool: server.pool.clone(),
        name: server.name.clone(),
        before: Some(server.share),
        after: None,
        note: Some("removed; open requests finish"),
    }));
    changes
}

/// Whether `new` removes a server. One that is only draining does not count: an earlier edit removed or disabled it.
fn is_removed(server: &ServerReply, new: &Config) -> bool {
    let stays = new.pool(&server.pool).is_some_and(|pool| pool.servers.iter().any(|other| other.name == server.name));
    !stays && (server.share > 0.0 || server.status != Status::Draining)
}

/// Servers by pool and name. A name has several servers while one of them drains at its old address.
type ServersByName<'a> = HashMap<&'a str, HashMap<&'a str, Vec<&'a ServerReply>>>;

fn note(server: &ServerConfig, live: Option<&ServerReply>, kind: HealthKind) -> Option<&'static str> {
    match live {
        _ if !server.enabled => Some("disabled"),
        _ if server.weight == 0 => Some("weight 0"),
        _ if kind == HealthKind::None => None,
        None => Some("new; gets requests after its first passed check"),
        Some(live) if live.is_well() => None,
        Some(live) => match live.status {
            Status::Down => Some("down"),
            Status::Checking => Some("no check has passed yet"),
            _ => Some("its last check failed"),
        },
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
    fn shares_follow_weights_health_and_added_or_removed_servers() {
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
            // A server at another address is a new one.
            ("", &[("c", 9, 1, true)], &["c 0 1", "a 0.5 -", "b 0.5 -", "d 0 -"]),
            (
                "[balance]\nalgorithm = \"round-robin\"",
                &[("a", 1, 1, true), ("b", 2, 9, true)],
                &["a 0.5 0.5", "b 0.5 0.5", "c 0 -", "d 0 -"],
            ),
        ];
        for (rules, servers, expected) in cases {
            let share = |share: Option<f64>| share.map_or("-".to_owned(), |share| share.to_string());
            let changes: Vec<String> = share_changes(&now, &config(rules, servers))
                .iter()
                .map(|change| format!("{} {} {}", change.name, share(change.before), share(change.after)))
                .collect();
            assert_eq!(changes, expected, "{rules} {servers:?}");
        }
    }
}
