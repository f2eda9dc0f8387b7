//! Memory shared between the processes of a node: a memfd, mapped as atomic words.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// A mapped memfd of fixed size.
pub struct SharedMemory {
    fd: OwnedFd,
    address: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping lives as long as the value and is only reached through atomics.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// New zeroed memory of `bytes` (a multiple of 8).
    pub fn create(name: &str, bytes: usize) -> io::Result<Self> {
        let name = CString::new(name)?;
        // SAFETY: `name` is a valid C string.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this fd.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: `fd` is open.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), bytes as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Self::open(fd, bytes)
    }

    /// Map memory that another process created.
    pub fn open(fd: OwnedFd, bytes: usize) -> io::Result<Self> {
        // SAFETY: a zeroed stat is a valid out value, `fd` is open.
        let size = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            if libc::fstat(fd.as_raw_fd(), &raw mut stat) != 0 {
                return Err(io::Error::last_os_error());
            }
            stat.st_size
        };
        if (size as usize) < bytes {
            return Err(io::Error::other(format!("shared memory of {size} bytes, wanted {bytes}")));
        }
        // SAFETY: a fresh shared mapping of an open fd that is at least `bytes` long.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { fd, address, words: bytes / 8 })
    }

    /// The memory as words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, `words * 8` bytes long, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.words) }
    }
}

/// Make a range of a memfd zero again, in every mapping of it, and give its pages back.
pub fn empty_range(fd: BorrowedFd<'_>, from: usize, bytes: usize) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no pointers; `fd` is open.
    match unsafe { libc::fallocate(fd.as_raw_fd(), mode, from as libc::off_t, bytes as libc::off_t) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `open` with this very length, and not used after this.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.words * 8) };
    }
}
