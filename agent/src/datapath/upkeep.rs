//! What the tables need from time to time: entries that nobody will ask for any more go.

use std::time::Duration;

use waxseal_common::state::{Tuple, UdpFlow};

use super::Error;
use super::kernel::{Kernel, entries, ignore_absent, map_error};

impl Kernel {
    /// Removes UDP flows, half-open connections and openings in which nothing has happened for as long as given.
    /// Returns the flows.
    pub fn age(
        &mut self,
        now: u64,
        udp: Duration,
        pending: Duration,
    ) -> Result<Vec<(Tuple, UdpFlow)>, Error> {
        let old = |at: u64, limit: Duration| now.saturating_sub(at) > limit.as_nanos() as u64;
        let idle = |(_, flow): &(Tuple, UdpFlow)| old(flow.seen, udp);
        let mut ended: Vec<(Tuple, UdpFlow)> = entries(&self.udp_flows).filter(idle).collect();
        for (key, _) in &ended {
            ignore_absent(self.udp_flows.remove(key)).map_err(map_error("UDP_FLOWS"))?;
        }
        let strangers: Vec<(Tuple, UdpFlow)> = entries(&self.udp_unsealed).filter(idle).collect();
        for (key, _) in &strangers {
            ignore_absent(self.udp_unsealed.remove(key)).map_err(map_error("UDP_UNSEALED"))?;
        }
        ended.extend(strangers);
        let half: Vec<Tuple> =
            entries(&self.pending).filter(|(_, entry)| old(entry.at, pending)).map(|(key, _)| key).collect();
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
}
