//! UDP in batches: `recvmmsg(2)` and `sendmmsg(2)` with the local address (`IP_PKTINFO`) and the
//! kernel's segmentation (`UDP_GRO`, `UDP_SEGMENT`, udp(7)).

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::socket::address_of;

/// Datagrams in one batch.
pub const BATCH: usize = 32;
/// The largest that UDP can carry, and what the kernel coalesces at the most.
const BUFFER_BYTES: usize = 65_536;
const CONTROL_BYTES: usize = 128;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

/// What is known of one received datagram, or of several that the kernel has put together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Received {
    /// Bytes in the buffer.
    pub length: usize,
    /// Who sent it; `None` on a connected socket.
    pub peer: Option<SocketAddr>,
    /// The local address it was sent to, where [`tell_destination`] was asked for.
    pub destination: Option<IpAddr>,
    /// Size of each datagram but the last; 0 = it is one.
    pub segment_bytes: u16,
}

impl Received {
    /// How many datagrams it is.
    #[must_use]
    pub fn count(&self) -> u64 {
        if self.segment_bytes == 0 { 1 } else { self.length.div_ceil(usize::from(self.segment_bytes)) as u64 }
    }
}

impl Received {
    /// The size of each of its datagrams, in bytes.
    pub fn sizes(&self) -> impl Iterator<Item = u64> + use<> {
        let (length, segment) = (self.length as u64, u64::from(self.segment_bytes));
        let each = if segment == 0 { length } else { segment };
        (0..self.count()).map(move |index| each.min(length - index * each))
    }
}

/// Where a datagram goes: `None` for the peer of a connected socket.
#[derive(Debug, Clone, Copy, Default)]
pub struct Destination {
    /// Whom to send to.
    pub peer: Option<SocketAddr>,
    /// The local address to send from, on a socket bound to a wildcard.
    pub source: Option<IpAddr>,
}

/// What the system calls are told, kept between them: to clear it costs as much as a datagram.
struct Scratch {
    headers: [libc::mmsghdr; BATCH],
    names: [libc::sockaddr_storage; BATCH],
    /// Two for each datagram that has a header in front.
    parts: [libc::iovec; 2 * BATCH],
    controls: [Control; BATCH],
}

/// Buffers for one batch, used again and again.
pub struct DatagramBatch {
    buffers: Vec<u8>,
    received: [Received; BATCH],
    scratch: Box<Scratch>,
}

impl Default for DatagramBatch {
    fn default() -> Self {
        // SAFETY: all of it is plain data for which zero is valid.
        let scratch = unsafe { Box::new(zeroed()) };
        // The kernel gives memory for a buffer only once it is written to.
        Self { buffers: vec![0; BATCH * BUFFER_BYTES], received: [Received::default(); BATCH], scratch }
    }
}

impl DatagramBatch {
    /// The datagram in slot `index`.
    #[must_use]
    pub fn datagram(&self, index: usize) -> (&[u8], &Received) {
        let received = &self.received[index];
        (&self.buffers[index * BUFFER_BYTES..][..received.length], received)
    }

    /// Receive into the slots from `first` on, without waiting; returns how many were filled.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, first: usize, most: usize) -> io::Result<usize> {
        let count = most.min(BATCH - first);
        let Scratch { headers, names, parts, controls } = &mut *self.scratch;
        for (index, buffer) in
            self.buffers[first * BUFFER_BYTES..].chunks_exact_mut(BUFFER_BYTES).take(count).enumerate()
        {
            parts[index] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: BUFFER_BYTES };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = (&raw mut names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut parts[index];
            header.msg_iovlen = 1;
            header.msg_control = controls[index].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_BYTES;
            header.msg_flags = 0;
        }
        // SAFETY: the first `count` headers point to buffers, names and controls that outlive the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if received < 0 {
            return Err(io::Error::last_os_error());
        }
        let received = received as usize;
        for index in 0..received {
            let header = &headers[index];
            let (destination, segment_bytes) = read_control(&header.msg_hdr);
            self.received[first + index] = Received {
                length: header.msg_len as usize,
                peer: (header.msg_hdr.msg_namelen > 0).then(|| address_of(&names[index])).flatten(),
                destination,
                segment_bytes: if usize::from(segment_bytes) < header.msg_len as usize { segment_bytes } else { 0 },
            };
        }
        Ok(received)
    }

    /// Send the datagrams of `slots`, each to its destination, without waiting; returns how many went out.
    ///
    /// Those that the kernel had put together go out as they came. `Err` is the first one's.
    pub fn send(&mut self, socket: BorrowedFd<'_>, slots: &[(usize, Destination)]) -> io::Result<usize> {
        let count = slots.len().min(BATCH);
        let Self { buffers, received, scratch } = self;
        let Scratch { headers, names, parts, controls } = &mut **scratch;
        for (index, &(slot, destination)) in slots.iter().take(count).enumerate() {
            let bytes = &mut buffers[slot * BUFFER_BYTES..][..received[slot].length];
            parts[index] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let header = &mut headers[index].msg_hdr;
            header.msg_iov = &raw mut parts[index];
            header.msg_iovlen = 1;
            header.msg_namelen = match destination.peer {
                Some(peer) => put_address(&mut names[index], peer),
                None => 0,
            };
            header.msg_name = (&raw mut names[index]).cast();
            header.msg_control = controls[index].0.as_mut_ptr().cast();
            header.msg_controllen = write_control(header, destination.source, received[slot].segment_bytes);
            header.msg_flags = 0;
        }
        // SAFETY: the first `count` headers point to data that outlives the call.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }
}

impl DatagramBatch {
    /// Forget what a slot holds beyond its first `count` datagrams; returns how many it still holds.
    pub fn keep_first(&mut self, slot: usize, count: u64) -> u64 {
        let received = &mut self.received[slot];
        if received.count() > count {
            received.length = received.length.min(usize::from(received.segment_bytes) * count as usize);
        }
        received.count()
    }

    /// Send the datagrams in one slot, from number `skip` on, each with `prefix` in front, to the peer of a
    /// connected socket and without waiting; returns how many went out. `Err` is the first one's.
    ///
    /// Each is a message of its own: with the prefix they may no longer fit into the packets that they came in,
    /// which the kernel's segmentation does not take.
    pub fn send_prefixed(&mut self, socket: BorrowedFd<'_>, slot: usize, skip: u64, prefix: &[u8]) -> io::Result<u64> {
        let Self { buffers, received, scratch } = self;
        let Scratch { headers, parts, .. } = &mut **scratch;
        let whole = &received[slot];
        let bytes = &buffers[slot * BUFFER_BYTES..][..whole.length];
        let count = whole.count().saturating_sub(skip).min(BATCH as u64) as usize;
        for index in 0..count {
            let piece = match usize::from(whole.segment_bytes) {
                0 => bytes,
                size => {
                    let start = (skip as usize + index) * size;
                    &bytes[start..bytes.len().min(start + size)]
                }
            };
            for (place, part) in [prefix, piece].into_iter().enumerate() {
                let iov_base = part.as_ptr().cast_mut().cast(); // only read from
                parts[2 * index + place] = libc::iovec { iov_base, iov_len: part.len() };
            }
            let header = &mut headers[index].msg_hdr;
            header.msg_iov = &raw mut parts[2 * index];
            header.msg_iovlen = 2;
            (header.msg_namelen, header.msg_controllen, header.msg_flags) = (0, 0, 0);
        }
        // SAFETY: the first `count` headers point to data that outlives the call; they have no name and no control.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as u64) }
    }

    /// Send the datagrams in one slot one by one, as the path may not take them together; false when one
    /// of them could not be sent.
    #[must_use]
    pub fn send_apart(&self, socket: BorrowedFd<'_>, slot: usize, destination: Destination) -> bool {
        let (bytes, received) = self.datagram(slot);
        let size = usize::from(received.segment_bytes).max(1);
        bytes.chunks(size).all(|piece| send_piece(socket, piece, destination))
    }
}

fn send_piece(socket: BorrowedFd<'_>, bytes: &[u8], destination: Destination) -> bool {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control([0; CONTROL_BYTES]);
    let name = destination.peer.map(SockAddr::from);
    // SAFETY: a zeroed msghdr is valid; every pointer set below outlives the call.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if let Some(name) = &name {
        header.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_namelen = name.len();
    }
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = write_control(&mut header, destination.source, 0);
    // SAFETY: `header` and all it points to are alive.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    sent >= 0
}

/// Write a socket address where the kernel reads it; returns its length.
fn put_address(storage: &mut libc::sockaddr_storage, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(v4) => {
            // SAFETY: the storage is large enough and aligned for every kind of address.
            let name = unsafe { &mut *(&raw mut *storage).cast::<libc::sockaddr_in>() };
            name.sin_family = libc::AF_INET as libc::sa_family_t;
            name.sin_port = v4.port().to_be();
            name.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let name = unsafe { &mut *(&raw mut *storage).cast::<libc::sockaddr_in6>() };
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_port = v6.port().to_be();
            name.sin6_addr.s6_addr = v6.ip().octets();
            name.sin6_flowinfo = 0;
            name.sin6_scope_id = v6.scope_id();
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

fn read_control(header: &libc::msghdr) -> (Option<IpAddr>, u16) {
    let (mut destination, mut segment_bytes) = (None, 0);
    // SAFETY: the kernel filled `msg_control` up to `msg_controllen`; the macros stay inside it.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            let data = libc::CMSG_DATA(control);
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    destination = Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    destination = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    segment_bytes = data.cast::<libc::c_int>().read_unaligned() as u16;
                }
                _ => {}
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    (destination, segment_bytes)
}

/// Write what is asked for into the header's control buffer; returns how much of it is used.
fn write_control(header: &mut libc::msghdr, source: Option<IpAddr>, segment_bytes: u16) -> usize {
    let mut used = 0;
    let mut push = |level, kind, data: &[u8]| {
        // SAFETY: a zeroed cmsghdr is valid; the macros only compute.
        let (mut control, length, space): (libc::cmsghdr, _, _) =
            unsafe { (zeroed(), libc::CMSG_LEN(data.len() as u32), libc::CMSG_SPACE(data.len() as u32)) };
        (control.cmsg_level, control.cmsg_type, control.cmsg_len) = (level, kind, length as usize);
        // SAFETY: the buffer has CONTROL_BYTES; both messages together take at most 64 of them.
        unsafe {
            let at = header.msg_control.cast::<u8>().add(used);
            at.cast::<libc::cmsghdr>().write_unaligned(control);
            std::ptr::copy_nonoverlapping(data.as_ptr(), at.add(length as usize - data.len()), data.len());
        }
        used += space as usize;
    };
    match source {
        Some(IpAddr::V4(ip)) => {
            // struct in_pktinfo: interface, source address, header address
            let mut info = [0u8; size_of::<libc::in_pktinfo>()];
            info[4..8].copy_from_slice(&ip.octets());
            push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        Some(IpAddr::V6(ip)) => {
            let mut info = [0u8; size_of::<libc::in6_pktinfo>()];
            info[..16].copy_from_slice(&ip.octets());
            push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        None => {}
    }
    if segment_bytes != 0 {
        push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment_bytes.to_ne_bytes());
    }
    used
}

fn set_option(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> bool {
    let on: libc::c_int = 1;
    // SAFETY: `on` is alive for the call and as long as told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    result == 0
}

/// Tell with each datagram which local address it was sent to.
pub fn tell_destination(socket: BorrowedFd<'_>) {
    set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO);
    set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO);
}

/// Let the kernel put datagrams of one flow together (`UDP_GRO`); one that cannot goes on one by one.
pub fn coalesce(socket: BorrowedFd<'_>) {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO);
}

/// A non-blocking UDP socket connected to `address`.
pub fn connect_datagram(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket =
        Socket::new_raw(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    socket.connect(&SockAddr::from(address))?;
    Ok(socket.into())
}

/// Point a UDP socket at another peer; it keeps its port.
pub fn reconnect_datagram(socket: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    socket2::SockRef::from(&socket).connect(&SockAddr::from(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn wait_for(batch: &mut DatagramBatch, socket: &UdpSocket, wanted: u64) -> Vec<Received> {
        let mut all: Vec<Received> = Vec::new();
        while all.iter().map(Received::count).sum::<u64>() < wanted {
            let first = all.len();
            match batch.receive(socket.as_fd(), first, BATCH) {
                Ok(count) => all.extend((first..first + count).map(|index| *batch.datagram(index).1)),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        all
    }

    #[test]
    fn addresses_of_both_families_are_read_back() {
        for text in ["192.0.2.7:1", "[2001:db8::5]:65535", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().expect("valid");
            // SAFETY: plain data for which zero is valid.
            let mut storage = unsafe { zeroed() };
            let length = put_address(&mut storage, address);
            assert!(length as usize <= size_of::<libc::sockaddr_storage>());
            assert_eq!(address_of(&storage), Some(address));
        }
    }

    #[test]
    fn a_batch_arrives_with_its_senders_and_leaves_from_the_address_it_was_sent_to() {
        let server = UdpSocket::bind("0.0.0.0:0").expect("binds");
        tell_destination(server.as_fd());
        let port = server.local_addr().expect("bound").port();
        let client = UdpSocket::bind("127.0.0.1:0").expect("binds");
        client.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("sets");
        for text in ["one", "two"] {
            client.send_to(text.as_bytes(), ("127.0.0.9", port)).expect("sends");
        }
        let mut batch = DatagramBatch::default();
        let all = wait_for(&mut batch, &server, 2);
        assert_eq!(batch.datagram(1).0, b"two");
        assert_eq!(all[0].peer, Some(client.local_addr().expect("bound")));
        assert_eq!(all[0].destination, Some("127.0.0.9".parse().expect("valid")));
        let back = Destination { peer: all[0].peer, source: all[0].destination };
        assert_eq!(batch.send(server.as_fd(), &[(0, back), (1, back)]).expect("sends"), 2);
        let mut buffer = [0; 16];
        let (length, from) = client.recv_from(&mut buffer).expect("receives");
        assert_eq!((&buffer[..length], from.ip().to_string().as_str()), (&b"one"[..], "127.0.0.9"));
    }

    #[test]
    fn datagrams_put_together_go_out_apart() {
        let sender = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let relay = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("binds");
        coalesce(relay.as_fd());
        sender.connect(relay.local_addr().expect("bound")).expect("connects");
        // A sender that segments makes the loopback device deliver the whole.
        let mut batch = DatagramBatch::default();
        batch.buffers[..2500].fill(7);
        batch.received[0] = Received { length: 2500, segment_bytes: 1000, ..Received::default() };
        batch.send(sender.as_fd(), &[(0, Destination::default())]).expect("sends");
        let mut incoming = DatagramBatch::default();
        let all = wait_for(&mut incoming, &relay, 3);
        assert_eq!(all.iter().map(|one| one.length).sum::<usize>(), 2500);
        let to = Destination { peer: Some(receiver.local_addr().expect("bound")), source: None };
        let slots: Vec<_> = (0..all.len()).map(|index| (index, to)).collect();
        incoming.send(relay.as_fd(), &slots).expect("sends");
        assert!(slots.iter().all(|&(slot, to)| incoming.send_apart(relay.as_fd(), slot, to)));
        let mut sizes = Vec::new();
        let mut buffer = [0; 4096];
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("sets");
        while sizes.iter().sum::<usize>() < 5000 {
            sizes.push(receiver.recv(&mut buffer).expect("receives"));
        }
        assert_eq!(sizes, [1000, 1000, 500, 1000, 1000, 500]);
        assert_eq!((batch.keep_first(0, 9), batch.keep_first(0, 2), batch.datagram(0).0.len()), (3, 2, 2000));
    }

    #[test]
    fn a_connected_socket_tells_of_a_closed_port_and_can_be_pointed_elsewhere() {
        let gone = UdpSocket::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound");
        let there = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let socket = connect_datagram(gone).expect("connects");
        let mut batch = DatagramBatch::default();
        batch.received[0] = Received { length: 3, ..Received::default() };
        let one = [(0, Destination::default())];
        batch.send(socket.as_fd(), &one).expect("the first is not known to fail");
        let error = batch.receive(socket.as_fd(), 0, 1).expect_err("nobody there");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        reconnect_datagram(socket.as_fd(), there.local_addr().expect("bound")).expect("reconnects");
        batch.received[0] = Received { length: 3, ..Received::default() };
        batch.send(socket.as_fd(), &one).expect("sends");
        assert_eq!(there.recv(&mut [0; 8]).expect("receives"), 3);
    }
}
