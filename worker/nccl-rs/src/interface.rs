//! Which of this machine's network interfaces a group's data goes through.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use crate::error::{Error, Result};

/// A network interface. Always given: Gloo's own guess, the address that the
/// host's name resolves to, is often one that peers cannot reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interface {
    /// An IP address or host name of this machine, to which its peers connect.
    Address(String),
    /// A device's name, such as `eth0`.
    Name(String),
}

impl Interface {
    /// The one from which `host:port` (rank 0's store, say) is reached.
    pub fn facing(host: &str, port: u16) -> Result<Self> {
        let refuse = |error: std::io::Error| {
            Error::InvalidArgument(format!(
                "no interface of this host faces {host}:{port}: {error}"
            ))
        };
        let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "it has no address");
        for peer in (host, port).to_socket_addrs().map_err(refuse)? {
            match route_to(peer) {
                Ok(address) => return Ok(Self::Address(address.to_string())),
                Err(error) => last = error,
            }
        }
        Err(refuse(last))
    }

    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Address(text) | Self::Name(text) => text,
        }
    }
}

/// This host's address on the route to `peer`. Connecting a UDP socket looks the
/// route up and sends nothing.
fn route_to(peer: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}
