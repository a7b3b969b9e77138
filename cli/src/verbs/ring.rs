//! The ring's part of `rain status`.
//!
//! JSON: `view` (epoch.founder), `primary`, `leader`, `members` in ring order (node, incarnation, load,
//! addresses, state, tokens, regenerated, starved, cpu_us, uptime_ms, bytes_sent, bytes_received), `holder`
//! (the node with the newest token among the answers), `seq`, `round_ms`, `tokens_per_s`, `eligible`
//! (version, nodes, next), `disagree` (nodes with another view), `links` (from, to, link, up, transitions),
//! `recent` (time_ns, node, what), newest last.

use crate::output;
use rain_proto::v1::RingResponse;
use rain_proto::v1::ring_response::Phase;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many of the latest changes are printed; JSON has all that the nodes remember.
const RECENT_SHOWN: usize = 8;

/// The state of the ring, by the answers of the nodes.
pub(super) struct Ring {
    all: Vec<RingResponse>,
    /// The index of the answer that counts: the newest token in a primary ring, else in any ring.
    best: usize,
}

/// The name of a view: epoch.founder.
fn name(ring: &RingResponse) -> String {
    format!("{}.{}", ring.epoch, ring.founder)
}

fn state(ring: &RingResponse) -> &'static str {
    match Phase::try_from(ring.phase) {
        Ok(Phase::Hungry) => "hungry",
        Ok(Phase::Eating) => "eating",
        Ok(Phase::Starving) => "starving",
        Ok(Phase::Gone) => "gone",
        Ok(Phase::Unspecified) | Err(_) => "not started",
    }
}

impl Ring {
    pub(super) fn of(all: Vec<RingResponse>) -> Option<Ring> {
        let key = |ring: &RingResponse| (ring.primary, ring.epoch, ring.founder, ring.seq);
        let best =
            (0..all.len()).filter(|at| !all[*at].members.is_empty()).max_by_key(|at| key(&all[*at]))?;
        Some(Ring { all, best })
    }

    fn best(&self) -> &RingResponse {
        &self.all[self.best]
    }

    fn of_node(&self, node: u32) -> Option<&RingResponse> {
        self.all.iter().find(|ring| ring.node == node)
    }

    fn disagree(&self) -> Vec<u32> {
        let best = self.best();
        let other = |ring: &&RingResponse| name(ring) != name(best) || state(ring) == "starving";
        self.all.iter().filter(other).map(|ring| ring.node).collect()
    }

    /// All changes that the nodes remember, oldest first.
    fn recent(&self) -> Vec<(i64, u32, &str)> {
        let mut recent: Vec<_> = self
            .all
            .iter()
            .flat_map(|ring| ring.recent.iter().map(|event| (event.time_ns, ring.node, event.what.as_str())))
            .collect();
        recent.sort_unstable();
        recent
    }

    pub(super) fn as_json(&self) -> Value {
        let best = self.best();
        let members: Vec<Value> = best
            .members
            .iter()
            .map(|member| {
                let own = self.of_node(member.node);
                json!({
                    "node": member.node, "incarnation": member.incarnation, "load": member.load,
                    "addresses": member.addresses, "state": own.map(state), "tokens": own.map(|own| own.tokens),
                    "regenerated": own.map(|own| own.regenerated), "starved": own.map(|own| own.starved),
                    "cpu_us": own.map(|own| own.cpu_us), "uptime_ms": own.map(|own| own.uptime_ms),
                    "bytes_sent": own.map(|own| own.bytes_sent), "bytes_received": own.map(|own| own.bytes_received),
                })
            })
            .collect();
        let links: Vec<Value> = self
            .all
            .iter()
            .flat_map(|ring| ring.links.iter().map(move |link| (ring.node, link)))
            .map(|(from, link)| {
                json!({"from": from, "to": link.peer, "link": link.link, "up": link.up, "transitions": link.transitions})
            })
            .collect();
        let recent: Vec<Value> = self
            .recent()
            .into_iter()
            .map(|(time, node, what)| json!({"time_ns": time, "node": node, "what": what}))
            .collect();
        let round_ms = best.round_us as f64 / 1000.0;
        json!({
            "view": name(best), "primary": best.primary, "leader": best.members.first().map(|member| member.node),
            "members": members, "holder": best.node, "seq": best.seq, "round_ms": round_ms,
            "tokens_per_s": if best.round_us > 0 { 1e6 / best.round_us as f64 } else { 0.0 },
            "eligible": {"version": best.eligible_version, "nodes": best.eligible, "next": best.eligible_next},
            "disagree": self.disagree(), "links": links, "recent": recent,
        })
    }

    pub(super) fn print(&self) -> anyhow::Result<()> {
        let best = self.best();
        let kind = if best.primary { "primary" } else { "orphan: no majority" };
        let rate = if best.round_us > 0 {
            format!("a round in {:.1} ms", best.round_us as f64 / 1000.0)
        } else {
            "no round yet".into()
        };
        output::line(format!(
            "ring: view {} ({kind}), {} of {} eligible nodes; {rate}; token {} last seen at node {}",
            name(best),
            best.members.len(),
            best.eligible.len(),
            best.seq,
            best.node
        ))?;
        let order: Vec<String> = best.members.iter().map(|member| member.node.to_string()).collect();
        output::line(format!("order: {} (the first is the leader)\n", order.join(" > ")))?;
        let head = ["member", "state", "load", "life", "tokens", "made again", "links"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for member in &best.members {
            let own = self.of_node(member.node);
            let links = own.map_or("?".into(), |own| {
                let up = own.links.iter().filter(|link| link.up).count();
                format!("{up} of {} up", own.links.len())
            });
            let count = |what: fn(&RingResponse) -> u64| own.map_or("?".into(), |own| what(own).to_string());
            rows.push(vec![
                member.node.to_string(),
                own.map_or("?", state).to_owned(),
                format!("{:.1} %", f64::from(member.load) / 10.0),
                member.incarnation.to_string(),
                count(|own| own.tokens),
                count(|own| own.regenerated),
                links,
            ]);
        }
        output::table(&rows)?;
        let away = self.disagree();
        if !away.is_empty() {
            let away: Vec<String> = away.iter().map(u32::to_string).collect();
            output::line(format!("\nanother view, or no view, at node {}", away.join(", ")))?;
        }
        let member = |node: &u32| best.members.iter().any(|member| member.node == *node);
        let out: Vec<String> =
            best.eligible.iter().filter(|node| !member(node)).map(u32::to_string).collect();
        if !out.is_empty() {
            output::line(format!("\neligible and not in the view: node {}", out.join(", ")))?;
        }
        for ring in self.all.iter().filter(|ring| member(&ring.node)) {
            for link in ring.links.iter().filter(|link| !link.up && member(&link.peer)) {
                output::line(format!(
                    "link {} of node {} to node {} is down",
                    link.link, ring.node, link.peer
                ))?;
            }
        }
        let recent = self.recent();
        output::line("\nrecent changes")?;
        for (time, node, what) in recent.iter().skip(recent.len().saturating_sub(RECENT_SHOWN)) {
            output::line(format!("  {:>10}  node {node}: {what}", ago(*time)))?;
        }
        Ok(())
    }
}

/// The time since then for people: `12.3 s ago`.
fn ago(time_ns: i64) -> String {
    let then = UNIX_EPOCH + Duration::from_nanos(time_ns.max(0) as u64);
    let ago = SystemTime::now().duration_since(then).unwrap_or_default().as_secs_f64();
    match ago {
        seconds if seconds < 100.0 => format!("{seconds:.1} s ago"),
        seconds if seconds < 6000.0 => format!("{:.0} min ago", seconds / 60.0),
        seconds => format!("{:.0} h ago", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rain_proto::v1::RingMember;

    #[test]
    fn the_newest_primary_token_speaks_for_the_ring() {
        let members: Vec<RingMember> =
            [2, 1].map(|node| RingMember { node, ..RingMember::default() }).to_vec();
        let ring = |node, epoch, seq, primary| RingResponse {
            node,
            epoch,
            founder: 2,
            seq,
            primary,
            members: members.clone(),
            phase: Phase::Hungry as i32,
            ..RingResponse::default()
        };
        let all = vec![ring(1, 7, 40, true), ring(2, 7, 41, true), ring(3, 9, 99, false)];
        let ring = Ring::of(all).expect("a ring");
        let value = ring.as_json();
        assert_eq!((&value["view"], &value["holder"]), (&json!("7.2"), &json!(2)));
        assert_eq!((&value["leader"], &value["disagree"]), (&json!(2), &json!([3])));
        assert!(Ring::of(vec![RingResponse::default()]).is_none());
    }
}
