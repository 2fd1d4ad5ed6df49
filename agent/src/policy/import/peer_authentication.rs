//! Istio's `PeerAuthentication`.

use std::collections::BTreeMap;

use super::metadata::{Metadata, Opened};
use super::node::{Node, Value};
use super::strict::{Mutual, PeerAuthentication};
use crate::policy::error::Problem;
use crate::policy::ports::PortsError;
use crate::policy::reader::Reader;
use crate::workload::Labels;

const MODES: [(&str, Option<Mutual>); 4] = [
    ("UNSET", None),
    ("DISABLE", Some(Mutual::Optional)),
    ("PERMISSIVE", Some(Mutual::Optional)),
    ("STRICT", Some(Mutual::Strict)),
];

impl Reader<'_> {
    pub(crate) fn peer_authentication(&mut self, node: &Node) -> Option<PeerAuthentication> {
        let Opened { metadata, object, place } = self.open(node, &["spec"], true)?;
        let empty = Node { place, value: Value::Object(Vec::new()) };
        let spec = object.get("spec").unwrap_or(&empty);
        let spec = self.object(spec, &["selector", "mtls", "portLevelMtls"])?;
        let selector = match spec.get("selector") {
            Some(node) => self.workload_selector(node)?,
            None => Labels::new(),
        };
        let mode = match spec.get("mtls") {
            Some(node) => self.mutual(node)?,
            None => None,
        };
        let ports = match spec.get("portLevelMtls") {
            Some(node) if selector.is_empty() => self.refuse(node.place, Problem::PortsWithoutSelector)?,
            Some(node) => self.port_level(node)?,
            None => BTreeMap::new(),
        };
        let Metadata { name, namespace, created, .. } = metadata;
        Some(PeerAuthentication {
            everywhere: namespace == super::ROOT_NAMESPACE,
            selector,
            mode,
            ports,
            created: created.map(str::to_owned),
            origin: self.origin(place),
            namespace,
            name,
        })
    }

    #[expect(clippy::option_option, reason = "refused, unset and set are three things")]
    fn mutual(&mut self, node: &Node) -> Option<Option<Mutual>> {
        let object = self.object(node, &["mode"])?;
        match object.get("mode") {
            Some(node) => self.one_of(node, "mode", &MODES),
            None => Some(None),
        }
    }

    fn port_level(&mut self, node: &Node) -> Option<BTreeMap<u16, Option<Mutual>>> {
        let mut ports = BTreeMap::new();
        for (key, value) in self.entries(node)? {
            let number = key.value.parse::<u16>().ok().filter(|number| *number > 0);
            let Some(number) = number.filter(|number| number.to_string() == key.value) else {
                return self.refuse(key.referenced, PortsError::Number(key.value.clone()).into());
            };
            ports.insert(number, self.mutual(value)?);
        }
        Some(ports)
    }
}
