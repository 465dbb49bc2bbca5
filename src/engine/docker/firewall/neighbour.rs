//! Tells this host's kernel which container has an address on the bridge.
//!
//! The engine gives an address to one container after another. The kernel remembers the Ethernet
//! address of the previous one, sends packets for the new one there, and notices only after some
//! ten seconds; engines before 28 do not announce the change.

use std::{io, net::Ipv4Addr};

use super::rules::Mac;

/// Sets the Ethernet address of an IP address on this host's bridge.
///
/// # Errors
/// The kernel's.
#[cfg(target_os = "linux")]
pub(super) fn set(bridge: &str, addr: Ipv4Addr, mac: Mac) -> io::Result<()> {
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, netdevice, netlink,
        recv, send, socket_with,
    };

    /// The position of the error number in a response, after the message header.
    const ERROR_AT: std::ops::Range<usize> = 16..20;

    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // Netlink's protocol 0 is routing.
        None,
    )?;
    connect(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
    let any = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let interface = netdevice::name_to_index(&any, bridge)?;
    send(&socket, &message(interface, addr, mac), SendFlags::empty())?;
    // The kernel has answered by the time that it has accepted the message.
    let mut answer = [0; 512];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::DONTWAIT)?;
    let said = answer[..length]
        .get(ERROR_AT)
        .and_then(|n| n.try_into().ok());
    match said.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(-number)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// On other systems no bridge is this host's.
#[cfg(not(target_os = "linux"))]
pub(super) fn set(_: &str, _: Ipv4Addr, _: Mac) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A request of rtnetlink (7) to add or replace an entry in the neighbour table.
#[cfg(target_os = "linux")]
fn message(interface: u32, addr: Ipv4Addr, mac: Mac) -> Vec<u8> {
    const RTM_NEWNEIGH: u16 = 28;
    // Request, acknowledge, replace, create.
    const FLAGS: u16 = 0x1 | 0x4 | 0x100 | 0x400;
    // Used at once, and verified later like any other entry.
    const NUD_STALE: u16 = 0x04;
    const NDA_DST: u16 = 1;
    const NDA_LLADDR: u16 = 2;
    const LENGTH: u32 = 16 + 12 + 8 + 12;
    let mut out = Vec::new();
    out.extend(LENGTH.to_ne_bytes());
    out.extend(RTM_NEWNEIGH.to_ne_bytes());
    out.extend(FLAGS.to_ne_bytes());
    out.extend([0; 8]); // sequence and sender
    out.extend([2, 0, 0, 0]); // AF_INET, padding
    out.extend(interface.to_ne_bytes());
    out.extend(NUD_STALE.to_ne_bytes());
    out.extend([0, 0]); // flags and type
    out.extend(8_u16.to_ne_bytes());
    out.extend(NDA_DST.to_ne_bytes());
    out.extend(addr.octets());
    out.extend(10_u16.to_ne_bytes());
    out.extend(NDA_LLADDR.to_ne_bytes());
    out.extend(mac.octets());
    out.extend([0; 2]); // padding
    debug_assert_eq!(Ok(LENGTH), u32::try_from(out.len()));
    out
}
