//! The ports that a container listens on, read from the kernel's socket table of its network
//! namespace, without running anything in it.
//!
//! The table is readable where the engine's processes are this machine's: `/proc/<pid>` must be a
//! process of that very container. Elsewhere (a remote engine, one in a virtual machine, `ignite`
//! in a container) the ports are unknown.

use std::{
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bollard::models::ContainerInspectResponse;

use super::{ContainerId, Docker, Error, Listening, states};

/// Most bytes of a socket table that are read. Listening sockets come first in it, 150 bytes each.
const TABLE_BYTES: u64 = 256 << 10;
/// The address of Docker's resolver in containers of a user-defined network.
const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
/// The kernel's number of the state LISTEN.
const LISTEN: &str = "0A";

impl Docker {
    /// The ports that the container listens on; `None` where they are not visible.
    pub(super) async fn sockets_of(&self, id: &ContainerId) -> Result<Option<Listening>, Error> {
        let answer = self
            .client
            .run("inspect the container", |docker| async move {
                states::in_dockers_words(docker.inspect_container(&id.0, None).await)
            })
            .await;
        let answer = super::or_gone(answer, id)?;
        Ok(pid(&answer).and_then(|pid| read(pid, &id.0).ok()))
    }
}

/// The container's first process, when its network is its own.
fn pid(answer: &ContainerInspectResponse) -> Option<i64> {
    let host = answer.host_config.as_ref()?;
    if host.network_mode.as_deref() == Some("host") {
        return None;
    }
    let pid = answer.state.as_ref()?.pid?;
    (pid > 0).then_some(pid)
}

fn read(pid: i64, container: &str) -> io::Result<Listening> {
    let of = |name: &str| {
        let mut text = String::new();
        let file = File::open(format!("/proc/{pid}/{name}"))?;
        file.take(TABLE_BYTES).read_to_string(&mut text)?;
        io::Result::Ok(text)
    };
    if !of("cgroup")?.contains(container) {
        return Err(io::Error::other("that process is not the container's"));
    }
    let mut listening = Listening::default();
    for table in ["net/tcp", "net/tcp6"] {
        match of(table) {
            Ok(text) => text.lines().filter_map(listener).for_each(|(ip, port)| {
                let loopback = match ip {
                    IpAddr::V6(v6) => v6.to_canonical().is_loopback(),
                    IpAddr::V4(v4) => v4.is_loopback(),
                };
                if loopback {
                    listening.loopback.insert(port)
                } else {
                    listening.open.insert(port)
                };
            }),
            // A kernel without IPv6 has no such table.
            Err(e) if e.kind() == io::ErrorKind::NotFound && table == "net/tcp6" => {}
            Err(e) => return Err(e),
        }
    }
    // While the tables were read, the process may have ended and its number been reused.
    if of("cgroup")?.contains(container) {
        Ok(listening)
    } else {
        Err(io::Error::other("the container has ended"))
    }
}

/// The address of a listening socket from its line in the table.
fn listener(line: &str) -> Option<(IpAddr, u16)> {
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of four bytes, each in this machine's byte order.
    let word = |at: usize| {
        let hex = address.get(at..at + 8)?;
        u32::from_str_radix(hex, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for (n, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(n * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    (state == LISTEN && ip != RESOLVER).then_some((ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_read_from_the_kernels_table_and_others_are_not() {
        let listening = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listening.local_addr().expect("bound").port();
        let table = std::fs::read_to_string("/proc/self/net/tcp").expect("readable");
        let seen: Vec<_> = table.lines().filter_map(listener).collect();
        assert!(seen.contains(&(Ipv4Addr::LOCALHOST.into(), port)));
        let line = |local: &str, state: &str| {
            format!("   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000")
        };
        if cfg!(target_endian = "little") {
            let any = (Ipv4Addr::UNSPECIFIED.into(), 80);
            assert_eq!(listener(&line("00000000:0050", "0A")), Some(any));
            assert_eq!(listener(&line("0B00007F:0050", "0A")), None, "the resolver");
            let v6 = "00000000000000000000000001000000:1F90";
            let loopback = (IpAddr::from(Ipv6Addr::LOCALHOST), 8080);
            assert_eq!(listener(&line(v6, "0A")), Some(loopback));
        }
        assert_eq!(listener(&line("00000000:0050", "01")), None, "established");
        for junk in [
            "",
            "  sl  local_address rem_address   st",
            "0: x 0 0A",
            "0: 0:0 0 0A",
        ] {
            assert_eq!(listener(junk), None, "{junk:?}");
        }
    }
}
