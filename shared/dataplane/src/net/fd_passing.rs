//! One message and one fd over a Unix socket (`SCM_RIGHTS`, unix(7)).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What became of a message to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentFd {
    /// The receiver's queue has it.
    Sent,
    /// The queue is full.
    Full,
    /// Nobody holds the receiving end.
    Gone,
}

#[repr(C, align(8))]
struct Control([u8; 64]);

/// Send `bytes` with `fd` as one message, without waiting.
pub fn send_with_fd(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<SentFd> {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: a zeroed msghdr is valid; every pointer set below outlives the call.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE and CMSG_LEN only compute; 64 bytes hold one fd's control message, aligned.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
    }
    // SAFETY: `message` and all it points to are alive.
    let sent =
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if sent >= 0 {
        return Ok(SentFd::Sent);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // ETOOMANYREFS: too many fds of this user are in flight, which ends as a full queue does.
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ETOOMANYREFS) => Ok(SentFd::Full),
        Some(libc::EPIPE | libc::ECONNRESET | libc::ECONNREFUSED | libc::ENOTCONN) => Ok(SentFd::Gone),
        _ => Err(error),
    }
}

/// Receive one message and the fd that came with it, without waiting.
///
/// `Ok((0, None))` = the other end is closed. The fd is close-on-exec.
pub fn recv_with_fd(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a zeroed msghdr is valid; every pointer set below outlives the call.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: `message` and all it points to are alive and writable.
    let received =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut fds: Vec<OwnedFd> = Vec::new();
    // SAFETY: the kernel filled `msg_control` up to `msg_controllen`; the macros stay inside it, and
    // each fd in an SCM_RIGHTS message is ours from now on.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
                for index in 0..bytes / size_of::<RawFd>() {
                    let at = libc::CMSG_DATA(header).add(index * size_of::<RawFd>());
                    let fd = RawFd::from_ne_bytes(at.cast::<[u8; size_of::<RawFd>()]>().read());
                    fds.push(OwnedFd::from_raw_fd(fd));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok((received as usize, fds.into_iter().next()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    #[test]
    fn a_socket_arrives_with_its_message_and_a_full_queue_is_told() {
        let (sender, receiver) = UnixDatagram::pair().expect("pair");
        let (mut kept, given) = UnixStream::pair().expect("pair");
        assert_eq!(send_with_fd(sender.as_fd(), b"hello", given.as_fd()).expect("sends"), SentFd::Sent);
        drop(given);
        let mut buffer = [0; 16];
        let (length, fd) = recv_with_fd(receiver.as_fd(), &mut buffer).expect("receives");
        assert_eq!(&buffer[..length], b"hello");
        let mut stream = UnixStream::from(fd.expect("an fd came along"));
        kept.write_all(b"x").expect("writes");
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("reads");
        assert_eq!(recv_with_fd(receiver.as_fd(), &mut buffer).expect_err("empty").kind(), io::ErrorKind::WouldBlock);
        let mut outcome = SentFd::Sent;
        for _ in 0..100_000 {
            outcome = send_with_fd(sender.as_fd(), b"again", stream.as_fd()).expect("sends or tells");
            if outcome != SentFd::Sent {
                break;
            }
        }
        assert_eq!(outcome, SentFd::Full);
        drop(receiver);
        assert_eq!(send_with_fd(sender.as_fd(), b"x", stream.as_fd()).expect("tells"), SentFd::Gone);
    }
}
