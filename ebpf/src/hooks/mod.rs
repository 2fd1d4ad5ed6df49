//! The hooks. File name = program name = the word in the tap.

mod cgroups;
mod connect;
mod judge;
mod sendmsg;
mod skb_egress;
mod skb_ingress;
mod sock_ops;
mod stateless;
mod tc_egress;
mod tc_ingress;
mod udp;

pub(crate) use tc_egress::DROP;
