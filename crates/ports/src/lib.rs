//! Ports of loopback for servers that tests, campaigns and benchmarks start as processes of their own: the port has to be known before the
//! server listens, so somebody must see to it that it stays free meanwhile.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Result};
use std::net::{TcpListener, UdpSocket};

use parking_lot::Mutex;

/// Below the ports that the kernel gives to outgoing connections: those would be taken before a server listens, and a client that looks for a
/// server that is away would find itself.
const RANGE: std::ops::Range<u16> = 15_000..30_000;
/// How many ports are taken until none is found.
const TRIES: usize = 1000;
/// How many ports a process keeps from others; each costs it a descriptor. A campaign's hub is long gone when its port is given again.
const HELD: usize = 256;

/// Nobody's server uses UDP, so the UDP port of the same number says that a port of TCP is spoken for, to every process of this machine and for
/// as long as its owner lives, and is in no server's way.
static TAKEN: Mutex<VecDeque<UdpSocket>> = Mutex::new(VecDeque::new());

/// A port of 127.0.0.1 on which nobody listens, and which is given to no other caller while this process lives (or has taken 256 more).
///
/// # Errors
/// If none is found.
pub fn free() -> Result<u16> {
    for _ in 0..TRIES {
        let port = rand::random_range(RANGE);
        let Ok(claim) = UdpSocket::bind(("127.0.0.1", port)) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_err() {
            continue;
        }
        let mut taken = TAKEN.lock();
        if taken.len() == HELD {
            taken.pop_front();
        }
        taken.push_back(claim);
        return Ok(port);
    }
    Err(Error::new(ErrorKind::AddrInUse, format!("no port of 127.0.0.1 within {RANGE:?} is free")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_port_is_given_twice_and_each_can_be_listened_on() -> Result<()> {
        let mut seen = BTreeSet::new();
        for _ in 0..HELD {
            let port = free()?;
            assert!(RANGE.contains(&port));
            assert!(seen.insert(port), "{port} was given twice");
            drop(TcpListener::bind(("127.0.0.1", port))?);
            assert!(UdpSocket::bind(("127.0.0.1", port)).is_err(), "other processes are not told of {port}");
        }
        Ok(())
    }
}
