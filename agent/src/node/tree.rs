//! What the control thread knows of the host: its cgroup tree and its addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use aya::maps::{MapData, RingBuf};
use waxseal_common::address::Address;
use waxseal_common::flow::{CgroupChange, CgroupEvent};
use waxseal_common::ids::{CgroupId, NetnsId};
use zerocopy::FromBytes as _;

use super::Error;
use super::control::Control;
use super::mesh::Place;
use crate::attest::{Decision, Owner};
use crate::cgroup::Cgroup;
use crate::datapath::netns;

impl Control {
    /// Lists the cgroup tree.
    pub(super) fn scan(&mut self) -> Result<(), Error> {
        let scan = self.tree.scan()?;
        if !scan.complete {
            tracing::error!(
                "there are more cgroups than can be looked after; those left out have no identity"
            );
        }
        let found: BTreeMap<CgroupId, Cgroup> =
            scan.cgroups.into_iter().map(|cgroup| (cgroup.id, cgroup)).collect();
        for id in self.cgroups.keys().filter(|id| !found.contains_key(id)) {
            self.shared.names.forget_cgroup(*id);
        }
        for cgroup in found.values() {
            self.shared.names.learn_cgroup(cgroup.id, &cgroup.path);
        }
        self.cgroups = found;
        Ok(())
    }

    /// Lists the tree and judges all of it.
    pub(super) fn rescan(&mut self) {
        if let Err(error) = self.scan() {
            tracing::error!(%error, "cannot list the cgroup tree");
            return;
        }
        let known: BTreeSet<CgroupId> = self.decisions.keys().chain(self.cgroups.keys()).copied().collect();
        self.settle_cgroups(&known);
    }

    pub(super) fn settle_cgroups(&mut self, ids: &BTreeSet<CgroupId>) {
        if let Err(error) = self.judge_cgroups(ids) {
            tracing::error!(%error, "cannot give cgroups their identity; they get nothing until it can be done");
        }
    }

    pub(super) fn cgroup_events(&mut self, ring: &mut RingBuf<MapData>) {
        let mut touched = BTreeSet::new();
        while let Some(item) = ring.next() {
            if let Ok(event) = CgroupEvent::read_from_bytes(&item) {
                self.cgroup_event(&event, &mut touched);
            }
        }
        if std::mem::take(&mut self.scan_soon) {
            self.rescan();
        } else if !touched.is_empty() {
            self.settle_cgroups(&touched);
        }
    }

    /// Notes one change. The tracepoints speak of cgroup v1 hierarchies too, whose numbers mean something else: only what
    /// the tree itself confirms counts.
    fn cgroup_event(&mut self, event: &CgroupEvent, touched: &mut BTreeSet<CgroupId>) {
        let length = (event.path_length as usize).min(event.path.len());
        let path = str::from_utf8(&event.path[..length]).ok().filter(|_| length + 1 < event.path.len());
        let Some(path) = path else {
            // Too long for an event, or no text: the tree itself must tell.
            self.scan_soon = true;
            return;
        };
        let id = event.cgroup;
        if event.kind == CgroupChange::Removed as u32 {
            let ours = self.cgroups.get(&id).is_some_and(|cgroup| cgroup.path == path);
            if ours && self.tree.id_of(path).ok() != Some(id) {
                self.cgroups.remove(&id);
                self.shared.names.forget_cgroup(id);
                touched.insert(id);
            }
            return;
        }
        let below = self.tree.directory(path).starts_with(self.tree.root());
        if !below || self.tree.id_of(path).ok() != Some(id) {
            return;
        }
        if event.kind == CgroupChange::Entered as u32
            && matches!(self.owners.get(&id), Some(Owner::Workload(_)))
        {
            self.look_soon = true;
        }
        if event.kind == CgroupChange::Made as u32 {
            self.cgroups.insert(id, Cgroup { id, path: path.to_owned() });
            self.shared.names.learn_cgroup(id, path);
            touched.insert(id);
        } else if !matches!(self.decisions.get(&id), Some(Decision::Attested(_))) || self.tree.is_hybrid() {
            touched.insert(id);
        }
    }

    /// Learns the node's addresses anew. Towards them a SYN is sealed, and a destination may be a workload.
    pub(super) fn look_around(&mut self) {
        let local = self.places();
        if local != self.local {
            self.local = local;
            self.settle_cgroups(&BTreeSet::new());
        }
    }

    /// The addresses of this node, in every namespace. The mesh learns which namespace has which.
    pub(super) fn places(&self) -> BTreeSet<Address> {
        let places = places(self.namespaces());
        let local = places.iter().flat_map(|place| place.addresses.iter().copied()).collect();
        self.shared.ties.places.replace(places);
        local
    }
}

impl Control {
    /// The namespaces of this node. An agent for a part of the cgroup tree may share the kernel with others, which are
    /// other nodes to it: only where its own processes live counts.
    fn namespaces(&self) -> HashMap<NetnsId, PathBuf> {
        if self.config.cgroup_root.is_none() || !self.config.has_border() {
            return netns::all();
        }
        let members = self.cgroups.values().filter_map(|cgroup| {
            std::fs::read_to_string(self.tree.directory(&cgroup.path).join("cgroup.procs")).ok()
        });
        netns::of(members.flat_map(|list| list.lines().map(str::to_owned).collect::<Vec<_>>()))
    }
}

/// The network namespaces of this node with their addresses, this process's own first.
fn places(all: HashMap<NetnsId, PathBuf>) -> Vec<Place> {
    let own = netns::own().ok();
    let own_place = own.map(|netns| Place {
        netns,
        path: Path::new("/proc/self/ns/net").to_owned(),
        addresses: addresses_in(None),
    });
    let others = all.into_iter().filter(|(netns, _)| Some(*netns) != own);
    let others = others.map(|(netns, path)| {
        let addresses = addresses_in(Some(&path));
        Place { netns, path, addresses }
    });
    own_place.into_iter().chain(others).collect()
}

/// The addresses of a namespace; of this process's own without one. What cannot be read has none.
fn addresses_in(namespace: Option<&Path>) -> BTreeSet<Address> {
    let found = match namespace {
        None => netns::addresses(),
        Some(path) => std::fs::File::open(path).and_then(|file| netns::inside(&file, netns::addresses)),
    };
    found.unwrap_or_default().into_iter().map(Address::from).collect()
}
