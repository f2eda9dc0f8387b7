//! Waiting for many fds without a runtime (`epoll(7)`, level-triggered), and waking that wait.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Events told by one wait.
const EVENTS: usize = 64;

/// A set of fds to wait for, each with a token.
///
/// For a thread whose wake-ups are mostly for one event: a runtime costs more than the event does.
pub struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this fd.
        Ok(Self { epoll: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Tell `token` whenever `fd` can be read.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        self.control(libc::EPOLL_CTL_ADD, fd.as_fd(), &raw mut event)
    }

    /// As [`Self::add`], for a listening socket that other processes accept from, too: the kernel wakes one
    /// that waits, not all.
    pub fn add_shared(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLEXCLUSIVE) as u32, u64: token };
        self.control(libc::EPOLL_CTL_ADD, fd.as_fd(), &raw mut event)
    }

    /// Tell nothing of `fd` any more. Closing is not enough when others hold the same open file.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd.as_fd(), std::ptr::null_mut())
    }

    fn control(&self, operation: libc::c_int, fd: BorrowedFd<'_>, event: *mut libc::epoll_event) -> io::Result<()> {
        // SAFETY: `event` is null or alive for the call; both fds are open.
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd.as_raw_fd(), event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The tokens that are ready, after at most `timeout` (`None` = however long it takes).
    pub fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        ready.clear();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let timeout_ms = timeout.map_or(-1, |timeout| timeout.as_millis().min(i32::MAX as u128) as i32);
        // SAFETY: `events` has room for `EVENTS` events and outlives the call.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), EVENTS as i32, timeout_ms) };
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        ready.extend(events[..count as usize].iter().map(|event| event.u64));
        Ok(())
    }
}

/// Wakes a [`Poller`] from another thread (`eventfd(2)`).
pub struct Waker {
    event: File,
}

impl Waker {
    /// Not yet woken.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this fd.
        Ok(Self { event: File::from(unsafe { OwnedFd::from_raw_fd(fd) }) })
    }

    /// End the current wait, or the next one.
    pub fn wake(&self) {
        let _ = (&self.event).write(&1u64.to_ne_bytes());
    }

    /// Take note: later waits wait again.
    pub fn clear(&self) {
        let _ = (&self.event).read(&mut [0; 8]);
    }

    /// Wait for a wake-up alone.
    pub fn wait(&self, timeout: Duration) {
        let timeout_ms = timeout.as_millis().min(i32::MAX as u128) as i32;
        let mut poll = libc::pollfd { fd: self.event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, alive for the call.
        unsafe { libc::poll(&raw mut poll, 1, timeout_ms) };
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_fd_is_told_until_it_is_read_or_removed() {
        let (poller, waker, mut ready) = (Poller::new().expect("epoll"), Waker::new().expect("eventfd"), Vec::new());
        poller.add(&waker, 7).expect("adds");
        poller.wait(Some(Duration::ZERO), &mut ready).expect("waits");
        assert!(ready.is_empty());
        std::thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            poller.wait(None, &mut ready).expect("waits");
        });
        assert_eq!(ready, [7]);
        poller.wait(Some(Duration::ZERO), &mut ready).expect("waits");
        assert_eq!(ready, [7], "level-triggered");
        waker.wait(Duration::from_secs(10));
        waker.clear();
        poller.wait(Some(Duration::ZERO), &mut ready).expect("waits");
        assert!(ready.is_empty());
        waker.wake();
        poller.remove(&waker).expect("removes");
        poller.wait(Some(Duration::ZERO), &mut ready).expect("waits");
        assert!(ready.is_empty());
    }
}
