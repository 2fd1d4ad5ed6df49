//! Keeps every device that leads to other nodes covered.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

use super::control::Control;

/// Groups of rtnetlink(7): devices, and routes of both families (RTMGRP_LINK, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE).
const GROUPS: u32 = 0x1 | 0x40 | 0x400;

/// Hears when devices or routes change. What exactly has changed is looked up afresh.
pub(super) struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    /// For the network namespace of this process.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        #[expect(
            deprecated,
            reason = "the replacement is unsafe and asks that the descriptor stay open and the same, which it does"
        )]
        AsyncFd::new(fd).map(Self)
    }

    /// Waits for a change.
    pub(super) async fn next(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut message = [0; 8192];
        loop {
            match recv(self.0.get_ref().as_raw_fd(), &mut message, MsgFlags::empty()) {
                // ENOBUFS: more has changed than was told. All of it is looked up anyway.
                Ok(_) | Err(Errno::ENOBUFS) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }
}

impl Control {
    /// Covers what leads to other nodes by now.
    pub(super) fn cover(&mut self) {
        let Some(border) = &mut self.border else { return };
        if let Err(error) = border.refresh() {
            tracing::error!(%error, "cannot look after the devices that lead to other nodes");
        }
    }
}
