//! The network of a program: loopback, switched on, and the doors that listen on it.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// Message kinds and flags of the kernel's routes (`linux/rtnetlink.h`, `linux/netlink.h`).
const NEW_LINK: u16 = 16;
const ERROR: u16 = 2;
const REQUEST_AND_ANSWER: u16 = 1 | 4;
/// In every network namespace the first interface is loopback.
const LOOPBACK: i32 = 1;
/// The flag of an interface that is on.
const UP: u32 = 1;
/// Bytes of a message's head and of its body here.
const HEAD: usize = 16;
const BODY: usize = 16;

/// Switches loopback on, in the network of this process.
///
/// # Errors
/// The kernel refuses, or there is no such interface.
pub(super) fn switch_on() -> io::Result<()> {
    // Number 0, which is what naming no protocol gives: the routes.
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&kernel, &request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 256];
    let (told, _) = recv(&kernel, &mut answer, RecvFlags::empty())?;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(HEAD..HEAD + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (told >= HEAD + 4, kind, code) {
        (true, Some(ERROR), Some(0)) => Ok(()),
        (true, Some(ERROR), Some(code)) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn request() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + BODY);
    bytes.extend_from_slice(&((HEAD + BODY) as u32).to_ne_bytes());
    bytes.extend_from_slice(&NEW_LINK.to_ne_bytes());
    bytes.extend_from_slice(&REQUEST_AND_ANSWER.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]); // number and sender: one request only
    bytes.extend_from_slice(&[0; 4]); // family and kind of interface: any
    bytes.extend_from_slice(&LOOPBACK.to_ne_bytes());
    bytes.extend_from_slice(&UP.to_ne_bytes());
    bytes.extend_from_slice(&UP.to_ne_bytes()); // what is changed
    bytes
}

/// Listens on `ports` of loopback.
///
/// # Errors
/// A port cannot be had.
pub(super) fn listen(ports: &[u16]) -> io::Result<Vec<OwnedFd>> {
    ports.iter().map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).map(OwnedFd::from)).collect()
}
