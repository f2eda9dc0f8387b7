//! Sockets: accept with the peer's address, non-blocking connect, adoption of inherited fds.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A connection just accepted.
pub struct Accepted {
    /// Its socket: non-blocking, close-on-exec.
    pub fd: OwnedFd,
    /// The peer; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
}

/// Why nothing was accepted.
#[derive(Debug)]
pub enum AcceptError {
    /// No connection is waiting.
    Empty,
    /// This connection is gone again; others may wait.
    Aborted,
    /// Out of file descriptors or memory: worth trying again later.
    Exhausted(io::Error),
    /// The listening socket itself is unusable.
    Broken(io::Error),
}

/// Accept one connection without waiting.
pub fn accept(listener: BorrowedFd<'_>) -> Result<Accepted, AcceptError> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `storage` has room for `length` bytes; both outlive the call.
    let fd = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            storage.as_mut_ptr().cast(),
            &raw mut length,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    };
    if fd < 0 {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::EAGAIN) => AcceptError::Empty,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => AcceptError::Exhausted(error),
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => AcceptError::Broken(error),
            // accept(2): network errors of the new connection are to be treated like EAGAIN.
            _ => AcceptError::Aborted,
        });
    }
    // SAFETY: the kernel has just given us this fd, and filled the zeroed storage.
    let (fd, storage) = unsafe { (OwnedFd::from_raw_fd(fd), storage.assume_init()) };
    Ok(Accepted { fd, peer: address_of(&storage) })
}

pub(super) fn address_of(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is what the storage holds.
            let v4 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            // A link-local peer is found again only with its interface.
            Some(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id)))
        }
        _ => None,
    }
}

/// A non-blocking TCP socket on its way to `address`, with `TCP_NODELAY`.
pub fn connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket =
        Socket::new_raw(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&SockAddr::from(address)) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

/// The pending error of a socket (`SO_ERROR`), which a non-blocking connect reports this way.
pub fn take_error(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).take_error()?.map_or(Ok(()), Err)
}

/// What the kernel has learnt of a TCP connection's path (`TCP_INFO`, tcp(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathFacts {
    /// The smoothed round-trip time in µs; 0 = none was measured.
    pub round_trip_us: u32,
    /// Segments sent again, of the whole connection.
    pub retransmits: u32,
}

/// The facts of a connection, also of one that was reset; none of a Unix socket.
#[must_use]
pub fn path_facts(socket: BorrowedFd<'_>) -> PathFacts {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` has room for `length` bytes; both outlive the call. A kernel with a longer form cuts it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return PathFacts::default();
    }
    // SAFETY: plain numbers, for which zero is valid; the kernel filled the first `length` bytes.
    let info = unsafe { info.assume_init() };
    PathFacts { round_trip_us: info.tcpi_rtt, retransmits: info.tcpi_total_retrans }
}

/// Close with a reset instead of a FIN, as the other side's reset has to be carried across.
pub fn close_with_reset(socket: BorrowedFd<'_>) {
    let _ = SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO));
}

/// Send small segments at once (`TCP_NODELAY`). On a Unix socket there is nothing to set.
pub fn set_no_delay(socket: BorrowedFd<'_>) {
    let _ = SockRef::from(&socket).set_tcp_nodelay(true);
}

/// Ask a peer that says nothing whether it is still there: after 30 s, and then every 10 s, four times.
pub fn keep_alive(socket: BorrowedFd<'_>) {
    let probes = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(4);
    let _ = SockRef::from(&socket).set_tcp_keepalive(&probes);
}

/// The address a listening socket is bound to; `None` on a Unix socket.
#[must_use]
pub fn listener_address(listener: BorrowedFd<'_>) -> Option<SocketAddr> {
    SockRef::from(&listener).local_addr().ok()?.as_socket()
}

/// Send one message on a message socket without waiting.
pub fn send_message(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    SockRef::from(&socket).send_with_flags(bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).map(drop)
}

/// Tell the runtime to watch an fd for reading.
pub fn watch_readable<T: AsRawFd + Into<OwnedFd>>(fd: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: what can become an OwnedFd owns an open fd, and keeps it for as long as the AsyncFd owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Whether a read or accept would find something, without waiting (poll(2)).
#[must_use]
pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, alive for the call.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}

/// Copy what has arrived without taking it, and without waiting.
pub fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: `buffer` is writable for its length and outlives the call.
    let count = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
}

/// Append to `bytes` what has arrived, `limit` bytes at most, without waiting. An error or the end of
/// the stream appends nothing: the next read finds it again.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut Vec<u8>, limit: usize) {
    let have = bytes.len();
    bytes.resize(have + limit, 0);
    // SAFETY: `limit` bytes behind `have` are writable and outlive the call.
    let count = unsafe { libc::recv(socket.as_raw_fd(), bytes[have..].as_mut_ptr().cast(), limit, libc::MSG_DONTWAIT) };
    bytes.truncate(have + count.max(0) as usize);
}

/// Count a socket as readable only when `bytes` have arrived, or no more will (`SO_RCVLOWAT`).
pub fn set_receive_low_water(socket: BorrowedFd<'_>, bytes: usize) {
    let value = bytes.min(i32::MAX as usize) as libc::c_int;
    // SAFETY: `value` is alive for the call, and its size is told.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// Take over an fd that the parent passed by number; made non-blocking and close-on-exec.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl on a number is harmless; it fails when it is not open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the bootstrap contract gives us this open fd for good.
    unsafe {
        libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK);
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// `CLOCK_MONOTONIC` in µs; the same for all processes of a host.
#[must_use]
pub fn clock_monotonic_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

/// Let the calling thread not throw others off their CPU when it wakes (`SCHED_BATCH`, sched(7)).
///
/// An idle CPU still takes it at once. No privilege is needed; a kernel that refuses changes nothing.
pub fn yield_to_running_threads() {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameter` is alive for the call; 0 means this thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn what_is_peeked_at_stays_and_little_of_it_is_not_readable() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (server, _) = listener.accept().expect("accepts");
        let readable = |wanted: bool| {
            while is_readable(server.as_fd()) != wanted {
                std::thread::yield_now();
            }
        };
        let (mut seen, mut taken) = ([0; 8], b"<".to_vec());
        assert_eq!(peek(server.as_fd(), &mut seen).expect_err("nothing there").kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"abc").expect("sends");
        readable(true);
        assert_eq!((peek(server.as_fd(), &mut seen).expect("there"), &seen[..3]), (3, &b"abc"[..]));
        set_receive_low_water(server.as_fd(), 4);
        readable(false);
        client.write_all(b"d").expect("sends");
        readable(true);
        set_receive_low_water(server.as_fd(), 100);
        readable(false);
        receive(server.as_fd(), &mut taken, 3);
        receive(server.as_fd(), &mut taken, 3);
        receive(server.as_fd(), &mut taken, 3);
        assert_eq!(taken, b"<abcd");
        drop(client);
        readable(true);
        assert_eq!(peek(server.as_fd(), &mut seen).expect("the end"), 0);
    }
}
