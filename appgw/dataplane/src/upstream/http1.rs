//! HTTP/1.1 to an endpoint: one exchange at a time on a connection, which is kept for the next one.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};

use weirgate_shared::clock;
use weirgate_shared::deadline::Deadline;
use weirgate_shared::endpoint::OpenConnection;
use weirgate_shared::reason::Reason;

use super::connect::Opened;
use super::{Asked, Upstream, UpstreamPool};
use crate::downstream::Piece;
use crate::http1::{self, Decoder, HeadScan};
use crate::io::Stream;
use crate::message::{Framing, Headers, ResponseHead};
use crate::tunnel::Pipe;

/// A connection to an endpoint.
pub(crate) struct Connection {
    stream: Stream,
    /// Requests that it has carried before this one.
    carried: u64,
    opened_ms: u64,
    idle_since_ms: u64,
    transport: u64,
    _open: OpenConnection,
}

impl Connection {
    pub(super) fn new(opened: Opened, transport: u64) -> Self {
        Self {
            stream: Stream::new(opened.io, opened.deadline),
            carried: 0,
            opened_ms: clock::coarse_ms(),
            idle_since_ms: 0,
            transport,
            _open: opened.open,
        }
    }
}

/// The idle connections of one endpoint.
#[derive(Default)]
pub(crate) struct Idle {
    connections: RefCell<Vec<Connection>>,
}

impl Idle {
    /// The last used one that is still good; `surely` = for what cannot be sent again.
    pub(super) fn take(&self, transport: u64, surely: bool) -> Option<Connection> {
        loop {
            let connection = self.connections.borrow_mut().pop()?;
            let stream = &connection.stream;
            if connection.transport == transport && if surely { stream.is_quiet_now() } else { stream.is_quiet() } {
                return Some(connection);
            }
        }
    }

    /// Close one, so that another connection can have its place. False = there is none.
    pub(super) fn give_up_one(&self) -> bool {
        self.connections.borrow_mut().pop().is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.borrow().is_empty()
    }

    /// Close those that have been idle for too long; they stand in the order of their last use.
    pub(super) fn expire(&self, idle_timeout_ms: u64) {
        if idle_timeout_ms == 0 {
            return;
        }
        let now = clock::coarse_ms();
        let mut connections = self.connections.borrow_mut();
        let fresh = connections.partition_point(|connection| connection.idle_since_ms + idle_timeout_ms <= now);
        connections.drain(..fresh);
    }

    /// Keep a connection for later, when it is still good and there is room for it.
    pub(super) fn give(&self, mut connection: Connection, pool: &UpstreamPool) {
        let settings = &pool.pool.settings;
        let mut idle = self.connections.borrow_mut();
        if connection.stream.input.borrow().is_empty()
            && idle.len() < settings.max_idle_connections as usize
            && !pool.is_worn(connection.carried, connection.opened_ms)
        {
            connection.idle_since_ms = clock::coarse_ms();
            connection.stream.deadline.clear();
            idle.push(connection);
        }
    }
}

impl Upstream for Connection {
    type Body = Decoder;

    const PROVES_UPGRADE: bool = true;

    fn is_reused(&self) -> bool {
        self.carried > 0
    }

    fn deadline(&self) -> &Deadline {
        &self.stream.deadline
    }

    async fn ask(&self, asked: &Asked<'_>, stall_ms: u64, limit_ms: u64) -> io::Result<()> {
        self.stream.write_all(asked.wire, stall_ms, limit_ms).await
    }

    fn data(&self, out: &mut Vec<u8>, data: &[u8], framing: Framing) {
        http1::body_data(out, data, framing);
    }

    fn end(&self, out: &mut Vec<u8>, trailers: Option<&Headers>, framing: Framing) {
        http1::body_end(out, trailers, framing);
    }

    async fn send(&self, out: &mut Vec<u8>, stall_ms: u64, limit_ms: u64) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        self.stream.deadline.set_within(stall_ms, limit_ms);
        let written = self.stream.write_all(out, stall_ms, limit_ms).await;
        out.clear();
        written
    }

    fn next_head(&self, scan: &mut HeadScan, to_head: bool, head: &mut ResponseHead) -> Result<bool, Reason> {
        let mut input = self.stream.input.borrow_mut();
        if input.is_empty() {
            return Ok(false);
        }
        let Some(length) = http1::parse_response(input.bytes(), scan, to_head, head)? else { return Ok(false) };
        input.consume(length);
        Ok(true)
    }

    async fn more(&self, gone: impl Fn(&mut Context<'_>) -> Poll<()>) -> io::Result<usize> {
        self.stream.read_while(gone).await
    }

    fn body(&self, framing: Framing) -> Decoder {
        Decoder::new(framing)
    }

    fn is_whole(&self, body: &Decoder) -> bool {
        matches!(body, Decoder::Done)
    }

    fn next_piece(&self, body: &mut Decoder, take: impl FnMut(&[u8])) -> Result<Piece, Reason> {
        self.stream.next_piece(body, take).map_err(|_| Reason::UpstreamBadResponse)
    }

    fn trailers<'a>(&self, body: &'a Decoder) -> Option<&'a Headers> {
        body.trailers()
    }

    fn ends_with_connection(&self, body: &Decoder) -> bool {
        body.ends_with_connection()
    }

    fn bulk<'a>(&'a self, body: &Decoder) -> Option<(&'a Stream, u64)> {
        if let Decoder::Length(left) = body { Some((&self.stream, *left)) } else { None }
    }

    fn taken(&self, body: &mut Decoder) {
        *body = Decoder::Done;
    }

    fn is_clean(&self) -> bool {
        self.stream.input.borrow().is_empty()
    }

    fn may_refuse(&self) -> bool {
        false
    }

    fn is_lost(&self) -> bool {
        true
    }

    /// It is not kept anyhow.
    fn distrust(&self) {}

    fn has_unsent(&self) -> bool {
        false
    }

    fn verdict(&self) -> Option<Reason> {
        None
    }

    fn is_unprocessed(&self) -> bool {
        false
    }

    fn pipe(&self) -> Option<(Pipe<'_>, Vec<u8>)> {
        Some(Pipe::of(&self.stream))
    }

    fn release(mut self, pool: &UpstreamPool, index: usize, keep: bool) {
        self.carried += 1;
        if keep {
            pool.connections[index].idle.give(self, pool);
        } else {
            drop(self);
        }
        pool.tell_freed();
    }
}
