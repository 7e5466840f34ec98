//! Which rank this process is: torchrun's environment variables.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::num::NonZeroUsize;
use std::time::Duration;

use nccl_rs::Interface;

use crate::config::Config;
use crate::cores::cores;
use crate::error::Error;

/// A process's place in its gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rank {
    /// `RANK`.
    pub rank: usize,
    /// `LOCAL_RANK`: also the number of the GPU.
    pub local_rank: usize,
    /// `WORLD_SIZE`.
    pub world_size: usize,
    /// Ranks on this machine (`LOCAL_WORLD_SIZE`).
    pub local_world_size: usize,
    /// `HEARTH_GENERATION`.
    pub generation: u32,
    /// `MASTER_ADDR`.
    pub master_address: String,
    /// `MASTER_PORT`.
    pub master_port: u16,
    /// Longest wait for another rank (`HEARTH_COMM_TIMEOUT_SECONDS`).
    pub timeout: Duration,
    /// Threads that libtorch computes on.
    pub threads: NonZeroUsize,
    /// `HEARTH_INTERFACE`: an address or the name of a network interface.
    interface: Option<String>,
}

impl Rank {
    /// Reads the process's environment. Without `RANK` and `WORLD_SIZE` the
    /// process trains alone, whatever the configuration's world size.
    pub fn from_environment(config: &Config) -> Result<Self, Error> {
        let cores = cores();
        Self::from_variables(&std::env::vars().collect(), config.ranks_per_machine, cores)
    }

    fn from_variables(
        variables: &HashMap<String, String>,
        ranks_per_machine: NonZeroUsize,
        cores: NonZeroUsize,
    ) -> Result<Self, Error> {
        let text = |name: &str| variables.get(name).map(String::as_str).filter(|v| !v.is_empty());
        let number = |name: &str| -> Result<Option<usize>, Error> {
            let parse = |value: &str| {
                value.parse().map_err(|_| {
                    Error::Environment(format!("{name} is {value:?}, not a whole number"))
                })
            };
            text(name).map(parse).transpose()
        };
        let world_size = number("WORLD_SIZE")?.unwrap_or(1);
        let rank = number("RANK")?.unwrap_or(0);
        if world_size == 0 || rank >= world_size {
            return Err(Error::Environment(format!(
                "RANK {rank} is not below WORLD_SIZE {world_size}"
            )));
        }
        let local_world_size =
            number("LOCAL_WORLD_SIZE")?.unwrap_or(ranks_per_machine.get()).clamp(1, world_size);
        let threads = match number("HEARTH_THREADS")?.or(number("OMP_NUM_THREADS")?) {
            Some(asked) => asked,
            None => cores.get() / local_world_size,
        };
        let port = number("MASTER_PORT")?.unwrap_or(29500);
        Ok(Self {
            rank,
            world_size,
            local_world_size,
            local_rank: number("LOCAL_RANK")?.unwrap_or(0),
            generation: number("HEARTH_GENERATION")?
                .map_or(Ok(1), u32::try_from)
                .map_err(|_| Error::Environment("HEARTH_GENERATION is too large".into()))?,
            master_address: text("MASTER_ADDR").unwrap_or("127.0.0.1").to_owned(),
            master_port: u16::try_from(port)
                .map_err(|_| Error::Environment(format!("MASTER_PORT {port} is no port")))?,
            timeout: Duration::from_secs(
                number("HEARTH_COMM_TIMEOUT_SECONDS")?.unwrap_or(300).max(1) as u64,
            ),
            threads: NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN),
            interface: text("HEARTH_INTERFACE").map(str::to_owned),
        })
    }

    /// Where rank 0 listens: on loopback where that is the master's address.
    pub fn listen_address(&self) -> Result<SocketAddr, Error> {
        let any = match self.master()?.ip() {
            ip if ip.is_loopback() => ip,
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Ok(SocketAddr::new(any, self.master_port))
    }

    /// The interface that reaches the master, unless `HEARTH_INTERFACE` names one.
    pub fn interface(&self) -> Result<Interface, Error> {
        match &self.interface {
            Some(named) if named.parse::<IpAddr>().is_ok() => Ok(Interface::Address(named.clone())),
            Some(named) => Ok(Interface::Name(named.clone())),
            None => Ok(Interface::Address(own_address_towards(self.master()?)?.to_string())),
        }
    }

    fn master(&self) -> Result<SocketAddr, Error> {
        let failed =
            |detail: String| Error::Unreachable { address: self.master_address.clone(), detail };
        (self.master_address.as_str(), self.master_port)
            .to_socket_addrs()
            .map_err(|error| failed(error.to_string()))?
            .next()
            .ok_or_else(|| failed("no address".into()))
    }
}

/// This machine's address on the route to `peer`. Connecting a UDP socket
/// chooses a route and sends nothing.
fn own_address_towards(peer: SocketAddr) -> Result<IpAddr, Error> {
    let any: IpAddr =
        if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let own = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(peer)?;
        socket.local_addr()
    });
    own.map(|address| address.ip()).map_err(|error| Error::Unreachable {
        address: peer.to_string(),
        detail: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)], per_machine: usize, cores: usize) -> Result<Rank, Error> {
        let variables =
            variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let count = |n| NonZeroUsize::new(n).unwrap();
        Rank::from_variables(&variables, count(per_machine), count(cores))
    }

    #[test]
    fn without_variables_a_process_trains_alone_on_all_cores() {
        let rank = read(&[], 2, 8).unwrap();
        assert_eq!((rank.rank, rank.world_size, rank.threads.get()), (0, 1, 8));
    }

    #[test]
    fn cores_are_divided_among_a_machines_ranks() {
        let world = [("RANK", "3"), ("WORLD_SIZE", "4")];
        assert_eq!(read(&world, 2, 8).unwrap().threads.get(), 4);
        assert_eq!(read(&world, 4, 2).unwrap().threads.get(), 1);
        let asked = [("RANK", "3"), ("WORLD_SIZE", "4"), ("OMP_NUM_THREADS", "3")];
        assert_eq!(read(&asked, 2, 8).unwrap().threads.get(), 3);
    }

    #[test]
    fn nonsense_is_refused_with_the_variables_name() {
        for (variables, named) in [
            (&[("RANK", "one")][..], "RANK"),
            (&[("RANK", "2"), ("WORLD_SIZE", "2")], "WORLD_SIZE"),
            (&[("MASTER_PORT", "99999")], "MASTER_PORT"),
        ] {
            let error = read(variables, 1, 1).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn loopback_masters_are_met_on_loopback() {
        let rank = read(&[("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29999")], 1, 1).unwrap();
        assert_eq!(rank.listen_address().unwrap().to_string(), "127.0.0.1:29999");
        assert!(matches!(rank.interface().unwrap(), Interface::Address(a) if a == "127.0.0.1"));
    }
}
