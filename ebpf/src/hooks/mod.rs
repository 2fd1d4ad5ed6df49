//! The hooks. File name = program name = the word in the tap.

mod cgroups;
mod connect;
mod judge;
mod sendmsg;
mod skb_egress;
mod skb_ingress;
mod sock_ops;
mod stateless;
mod udp;
