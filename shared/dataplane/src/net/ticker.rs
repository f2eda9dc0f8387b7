//! A timer that ticks for ever (`timerfd_create(2)`).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// An fd that becomes readable every `period_ms`; a read of 8 bytes makes it wait for the next tick.
///
/// One timer that the kernel repeats costs less than a timeout at every wait: programming the clock
/// is an exit from a virtual machine.
pub fn ticker(period_ms: u64) -> io::Result<File> {
    let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
    // SAFETY: no pointers.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this fd.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let period = libc::timespec {
        tv_sec: (period_ms / 1000) as libc::time_t,
        tv_nsec: (period_ms % 1000 * 1_000_000) as libc::c_long,
    };
    let setting = libc::itimerspec { it_interval: period, it_value: period };
    // SAFETY: `setting` is alive for the call; the old one is not asked for.
    if unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &raw const setting, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(File::from(fd))
}
