//! The layer-4 tier: every connection is accepted, admitted, and delivered by addresses and ports alone.
//!
//! The modules stand in the order in which a connection meets them: `acceptor` takes it from a
//! `listener`, `admit` judges, `select` chooses a gateway and `handoff` gives it the socket;
//! `protocol: tcp` and `tls` go to `proxy` instead, which relays to a pool. What has to be read of them
//! before is `reception`'s: it reads the `opening`, asks `server_names`, and may hand over after all.
//! `introduction` is what an endpoint is told of a client. `protocol: udp` is for `datagrams`: each goes
//! its `datagram_path`, through one of the `sessions`. `seat` is where a stream waits when every endpoint is
//! full; `streams` ends what an endpoint's end ends. `succession` is how one edge process gives way to the next.

mod acceptor;
mod admit;
mod config;
mod datagram_path;
mod datagrams;
mod handoff;
mod insight;
mod introduction;
mod listener;
mod opening;
mod plane;
mod proxy;
mod reception;
mod seat;
mod select;
mod server_names;
mod sessions;
mod streams;
mod succession;

pub use config::validate;
pub use plane::EdgePlane;
