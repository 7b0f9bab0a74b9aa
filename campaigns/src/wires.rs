//! The network between brokers of one machine, so that it can be cut: each broker is reached by the others through a relay, which knows who calls by the
//! process that holds the other end (`/proc`). A cut holds bytes back in one direction, as lost packets do: what was under way arrives late, when the
//! cut is over, if the connection still stands then. Needs no root.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes that one direction of a connection holds back; more waits in the sender's own buffers.
const CHUNK_BYTES: usize = 64 << 10;

/// From one broker to another.
pub type Way = (u32, u32);

#[derive(Debug)]
struct State {
    cut: watch::Sender<BTreeSet<Way>>,
    processes: Mutex<BTreeMap<u32, i32>>,
}

/// All relays. Dropping it ends them.
#[derive(Debug)]
pub struct Wires {
    state: Arc<State>,
    relays: JoinSet<()>,
}

impl Default for Wires {
    fn default() -> Wires {
        Wires { state: Arc::new(State { cut: watch::Sender::default(), processes: Mutex::default() }), relays: JoinSet::new() }
    }
}

impl Wires {
    /// A relay before a broker's port for peers; its address is to be advertised.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn before(&mut self, broker: u32, backend: SocketAddr) -> Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", tidegate_ports::free()?)).await.context("a relay")?;
        let address = listener.local_addr()?;
        self.relays.spawn(accept(Arc::clone(&self.state), listener, broker, backend));
        Ok(address)
    }

    /// Says which process a broker is now.
    pub fn is_process(&self, broker: u32, process: i32) {
        self.state.processes.lock().insert(broker, process);
    }

    /// Cuts these ways and no others.
    pub fn cut(&self, ways: impl IntoIterator<Item = Way>) {
        self.state.cut.send_replace(ways.into_iter().collect());
    }
}

async fn accept(state: Arc<State>, listener: TcpListener, to: u32, backend: SocketAddr) {
    let mut connections = JoinSet::new();
    while let Ok((caller, from)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let processes = state.processes.lock().clone();
            // A caller that is gone again, or no broker, is not let through.
            let Some(caller_is) = processes.into_iter().find(|(_, process)| holds(*process, from)).map(|(broker, _)| broker)
            else {
                return;
            };
            let Ok(callee) = TcpStream::connect(backend).await else { return };
            let (caller_reads, caller_writes) = caller.into_split();
            let (callee_reads, callee_writes) = callee.into_split();
            let there = carry(&state, (caller_is, to), caller_reads, callee_writes);
            let back = carry(&state, (to, caller_is), callee_reads, caller_writes);
            tokio::join!(there, back);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Carries bytes one way until the sender ends it.
async fn carry(state: &State, way: Way, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut cut = state.cut.subscribe();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if cut.wait_for(|cut| !cut.contains(&way)).await.is_err() {
            return;
        }
        if read == 0 {
            // The end is told as the rest is; an error on the way means that nobody is there to be told.
            let _ = to.shutdown().await;
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Whether a process holds the socket whose own end is at `address`.
fn holds(process: i32, address: SocketAddr) -> bool {
    let Some(inode) = inode_of(address) else { return false };
    let name = format!("socket:[{inode}]");
    let Ok(open) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    open.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| link == Path::new(&name)))
}

/// The inode of the TCP socket that is bound to a loopback address, by `/proc/net/tcp`.
fn inode_of(address: SocketAddr) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!("0100007F:{:04X}", address.port());
    let mut rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find(|row| row.get(1) == Some(&local.as_str()))?.get(9)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn bytes_pass_but_where_it_is_cut_and_arrive_when_it_is_over() {
        let mut wires = Wires::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = wires.before(2, listener.local_addr().unwrap()).await.unwrap();
        wires.is_process(1, std::process::id() as i32);
        let mut caller = TcpStream::connect(relay).await.unwrap();
        let (mut callee, _) = listener.accept().await.unwrap();
        caller.write_all(b"one").await.unwrap();
        let mut read = [0; 3];
        callee.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"one");
        // One way only: answers still pass.
        wires.cut([(1, 2)]);
        caller.write_all(b"two").await.unwrap();
        callee.write_all(b"ack").await.unwrap();
        caller.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ack");
        let held = tokio::time::timeout(std::time::Duration::from_millis(100), callee.read_exact(&mut read)).await;
        assert!(held.is_err(), "the cut lets nothing through");
        wires.cut([]);
        callee.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"two");
    }
}
