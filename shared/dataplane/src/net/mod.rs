//! System calls that the standard library does not offer: the only home of `unsafe`.
#![allow(unsafe_code)]

mod datagram;
mod fd_passing;
mod poller;
mod shared_memory;
mod socket;
mod splice;
mod ticker;

pub use datagram::{
    BATCH, DatagramBatch, Destination, Received, coalesce, connect_datagram, reconnect_datagram, tell_destination,
};
pub use fd_passing::{SentFd, recv_with_fd, send_with_fd};
pub use poller::{Poller, Waker};
pub use shared_memory::{SharedMemory, empty_range};
pub use socket::{
    AcceptError, Accepted, PathFacts, accept, adopt, clock_monotonic_us, close_with_reset, connect, is_readable,
    keep_alive, listener_address, path_facts, peek, receive, send_message, set_no_delay, set_receive_low_water,
    take_error, watch_readable, yield_to_running_threads,
};
pub use splice::{Pipe, splice};
pub use ticker::ticker;
