//! splice(2): bytes from socket to socket through a pipe, never through user space.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const WANTED_BYTES: i32 = 1 << 20;

/// A pipe used as the kernel-side buffer of one direction.
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// How much it holds at the most.
    pub capacity: usize,
}

impl Pipe {
    /// A new pipe, 1 MiB where the system allows it.
    pub fn new() -> io::Result<Self> {
        let mut fds = [0; 2];
        // SAFETY: `fds` has room for two.
        if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both fds are new and ours; F_SETPIPE_SZ and F_GETPIPE_SZ take and give an int.
        unsafe {
            let (read, write) = (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]));
            let mut capacity = libc::fcntl(fds[1], libc::F_SETPIPE_SZ, WANTED_BYTES);
            if capacity < 0 {
                capacity = libc::fcntl(fds[1], libc::F_GETPIPE_SZ);
            }
            Ok(Self { read, write, capacity: capacity.max(4096) as usize })
        }
    }

    /// The end that bytes leave from.
    #[must_use]
    pub fn reader(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// The end that bytes go into.
    #[must_use]
    pub fn writer(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }
}

/// Move up to `length` bytes without waiting; 0 = end of stream.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
    // No SPLICE_F_MORE: it corks the last bytes of a stream that pauses.
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: both fds are open; null offsets are right for sockets and pipes.
    let moved = unsafe {
        libc::splice(from.as_raw_fd(), std::ptr::null_mut(), to.as_raw_fd(), std::ptr::null_mut(), length, flags)
    };
    if moved < 0 { Err(io::Error::last_os_error()) } else { Ok(moved as usize) }
}
