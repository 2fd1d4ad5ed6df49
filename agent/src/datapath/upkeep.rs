//! What the tables need from time to time: entries that nobody will ask for any more go.

use std::collections::HashMap;
use std::time::Duration;

use waxseal_common::ids::IdentityId;
use waxseal_common::state::{Tuple, UdpFlow};

use super::Error;
use super::batch::entries;
use super::kernel::{Kernel, ignore_absent, map_error};

/// How many parts of the table of UDP flows may be in use before idle flows go earlier, and what part of the usual time
/// they have then: whoever asks a name server a thousand times a second is to go on doing so.
const CROWDED: [(usize, u32); 2] = [(2, 4), (4, 12)];

impl Kernel {
    /// Removes UDP flows, half-open connections and openings in which nothing has happened for as long as given; UDP
    /// flows earlier when the table is crowded. Returns those flows.
    pub fn age(
        &mut self,
        now: u64,
        udp: Duration,
        pending: Duration,
    ) -> Result<Vec<(Tuple, UdpFlow)>, Error> {
        let mut ended = self.age_flows(now, udp)?;
        let idle = |(_, flow): &(Tuple, UdpFlow)| old(now, flow.seen, udp);
        let strangers: Vec<(Tuple, UdpFlow)> = entries(&self.udp_unsealed).filter(idle).collect();
        for (key, _) in &strangers {
            ignore_absent(self.udp_unsealed.remove(key)).map_err(map_error("UDP_UNSEALED"))?;
        }
        ended.extend(strangers);
        let half: Vec<Tuple> = entries(&self.pending)
            .filter(|(_, entry)| old(now, entry.at, pending))
            .map(|(key, _)| key)
            .collect();
        for key in half {
            ignore_absent(self.pending.remove(&key)).map_err(map_error("PENDING"))?;
        }
        let orphans: Vec<u64> = entries(&self.openings)
            .filter(|(_, cookie)| self.connections.get(cookie, 0).is_err())
            .map(|(key, _)| key)
            .collect();
        for mac in orphans {
            ignore_absent(self.openings.remove(&mac)).map_err(map_error("OPENINGS"))?;
        }
        Ok(ended)
    }

    /// Also counts anew how many flows each source has.
    fn age_flows(&mut self, now: u64, idle: Duration) -> Result<Vec<(Tuple, UdpFlow)>, Error> {
        let mut shares: HashMap<IdentityId, u64> = HashMap::new();
        let (mut used, mut ended) = (0, Vec::new());
        for (key, flow) in entries(&self.udp_flows) {
            used += 1;
            *shares.entry(flow.source).or_default() += 1;
            if old(now, flow.seen, patience(usize::MAX, self.udp_capacity, idle)) {
                ended.push((key, flow));
            }
        }
        let idle = patience(used, self.udp_capacity, idle);
        ended.retain(|(_, flow)| old(now, flow.seen, idle));
        for (key, flow) in &ended {
            ignore_absent(self.udp_flows.remove(key)).map_err(map_error("UDP_FLOWS"))?;
            shares.entry(flow.source).and_modify(|count| *count -= 1);
        }
        shares.retain(|_, count| *count > 0);
        let known: Vec<IdentityId> = self.udp_shares.keys().filter_map(Result::ok).collect();
        for source in known.iter().filter(|source| !shares.contains_key(source)) {
            ignore_absent(self.udp_shares.remove(source)).map_err(map_error("UDP_SHARES"))?;
        }
        // What a source opens meanwhile is not counted: its share is a little larger until the next time.
        for (source, count) in shares {
            self.udp_shares.insert(source, count, 0).map_err(map_error("UDP_SHARES"))?;
        }
        Ok(ended)
    }
}

fn old(now: u64, at: u64, limit: Duration) -> bool {
    now.saturating_sub(at) > limit.as_nanos() as u64
}

/// How long an idle flow stays when so many are in the table.
fn patience(used: usize, capacity: usize, idle: Duration) -> Duration {
    let crowded = |(part, _): &&(usize, u32)| used > capacity - capacity / part;
    CROWDED.iter().rfind(crowded).map_or(idle, |(_, divisor)| idle / *divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowded_table_is_less_patient() {
        let idle = Duration::from_mins(2);
        for (used, seconds) in [(0, 120), (500, 120), (501, 30), (750, 30), (751, 10), (1000, 10)] {
            assert_eq!(patience(used, 1000, idle), Duration::from_secs(seconds), "{used} of 1000");
        }
    }
}
