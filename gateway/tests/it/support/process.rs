//! A gateway in a process of its own, whose memory can be told.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use hearth_crds::routing::RoutingTable;

use super::{connect, get, soon};

/// A gateway that ends with this value.
pub(crate) struct Process {
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    child: Child,
    _table: tempfile::NamedTempFile,
}

impl Process {
    /// Serves by this table, with these flags besides.
    pub(crate) async fn start(table: &RoutingTable, flags: &[&str]) -> Self {
        allow_files(std::process::id());
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(serde_json::to_string(table).unwrap().as_bytes()).unwrap();
        let (address, admin) = (free(), free());
        let child = Command::new(env!("CARGO_BIN_EXE_hearth-gateway"))
            .arg("--routing")
            .arg(file.path())
            .args(["--listen", &address.to_string(), "--admin-listen", &admin.to_string()])
            .args(flags)
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let running = Self { address, admin, child, _table: file };
        let ready = async {
            while !is_ready(admin).await {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        soon(ready).await;
        running
    }

    /// Open connections.
    pub(crate) async fn connections(&self) -> usize {
        let text = super::raw(self.admin, &get("/metrics")).await;
        let line = text.lines().find(|line| line.starts_with("hearth_gateway_connections "));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect(&text)
    }

    /// Its memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn is_ready(admin: SocketAddr) -> bool {
    if tokio::net::TcpStream::connect(admin).await.is_err() {
        return false;
    }
    drop(connect(admin).await);
    super::raw(admin, &get("/readyz")).await.contains("200 OK")
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Raises the soft limit of open files to the hard one, of this process and those that it starts.
/// Gives the limit.
pub(crate) fn allow_files(process: u32) -> usize {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let figures: Vec<usize> =
        line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [soft, hard] = figures[..] else { return usize::MAX };
    let raised = Command::new("prlimit")
        .args([format!("--pid={process}"), format!("--nofile={hard}:{hard}")])
        .status();
    if raised.is_ok_and(|status| status.success()) { hard } else { soft }
}
