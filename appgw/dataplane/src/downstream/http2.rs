//! HTTP/2: a connection, which takes requests, and the exchange of each.

mod exchange;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::Request;
use weirgate_shared::clock;
use weirgate_shared::deadline::Deadline;
use weirgate_shared::reason::Reason;

use crate::client::Client;
use crate::http2::{FrameWatch, KeepAlive};
use crate::io::Stream;
use crate::wire::Wire;

/// How long a client gets to take notice of the end of the connection.
const CLOSING_MS: u64 = 2_000;
/// Bytes of each answer that the h2 crate may hold until the socket takes them.
const SEND_BYTES: usize = 64 * 1024;
/// What DATA frames that wait for their endpoint may cost: 256 less their length each. The windows bound their
/// bytes, but a frame of few bytes takes more room than they do.
const DATA_FRAME_BUDGET: usize = 4 * 1024 * 1024;
/// The h2 crate answers heads beyond its limit itself, and tells nobody: it gets a larger one than ours.
const HEAD_SLACK: usize = 16 * 1024;
/// GOAWAY, no stream, `PROTOCOL_ERROR` (RFC 9113 §6.8).
const GOAWAY_PROTOCOL_ERROR: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// Bytes that are read meanwhile.
const LINGER_BYTES: usize = 256 * 1024;

/// Serve a connection on which HTTP/2 was agreed.
pub(crate) async fn serve(client: Client, stream: Stream) {
    let client = Rc::new(client);
    let runtime = client.gateway.runtime();
    let gateway = &runtime.snapshot.gateway;
    let (io, early, deadline) = stream.into_parts();
    let wire = Wire::new(io, early, FrameWatch::new(gateway.http2_control_frames, clock::coarse_ms()));
    deadline.set(gateway.request_head_ms);
    let mut builder = Builder::new();
    if gateway.http2_extended_connect {
        builder.enable_connect_protocol();
    }
    let mut shaking = pin!(
        builder
            .max_concurrent_streams(gateway.http2_streams)
            .initial_window_size(gateway.http2_stream_window_bytes)
            .initial_connection_window_size(gateway.http2_connection_window_bytes)
            .max_header_list_size((2 * gateway.header_bytes + HEAD_SLACK) as u32)
            .max_send_buffer_size(SEND_BYTES)
            .data_frame_budget(DATA_FRAME_BUDGET)
            // Ours is the watch's limit; theirs would end a connection whose page was left while we were busy.
            .max_pending_accept_reset_streams(gateway.http2_streams as usize)
            .handshake::<_, Bytes>(wire.clone())
    );
    let connection = poll_fn(|context| {
        if let Poll::Ready(result) = shaking.as_mut().poll(context) {
            return Poll::Ready(result.map_err(|error| (!error.is_io()).then_some(Reason::BadRequestFraming)));
        }
        if matches!(wire.poll_push(context), Poll::Ready(Err(_))) {
            return Poll::Ready(Err(None));
        }
        deadline.poll_expired(context).map(|()| Err(Some(Reason::RequestTimeout)))
    })
    .await;
    let ping_times = (gateway.http2_ping_interval_ms, gateway.http2_ping_timeout_ms);
    drop(runtime);
    let mut connection = match connection {
        Ok(connection) => connection,
        Err(reason) => {
            if let Some(reason) = reason {
                client.gateway.totals.count_reason(reason);
                // The crate says nothing to what is no preface (RFC 9113 §3.4).
                wire.write(&GOAWAY_PROTOCOL_ERROR);
                end(&wire, &deadline).await;
            }
            return;
        }
    };
    let pings = connection.ping_pong().filter(|_| ping_times.0 != 0);
    let pings = pings.map(|pings| KeepAlive::new(pings, client.gateway.deadlines.register(), ping_times));
    let mut driver = Driver {
        client,
        connection,
        pings,
        wire,
        deadline,
        open: Rc::default(),
        waits: Waits::Unknown,
        closing: false,
    };
    let mut number = 0;
    while let Some((request, respond)) = driver.next().await {
        number += 1;
        let open = Open::new(&driver.open);
        tokio::task::spawn_local(exchange::serve(
            Rc::clone(&driver.client),
            driver.wire.clone(),
            request,
            respond,
            number,
            open,
        ));
    }
    driver.linger().await;
}

/// Half-close, and read on for a little while: a plain close could reset the connection before the client has
/// read why it ended.
async fn end(wire: &Wire, deadline: &Deadline) {
    deadline.set(CLOSING_MS);
    let mut left = LINGER_BYTES;
    poll_fn(|context| {
        if wire.poll_end(context, &mut left).is_ready() {
            return Poll::Ready(());
        }
        deadline.poll_expired(context)
    })
    .await;
}

/// An open exchange, counted.
pub(super) struct Open(Rc<Cell<u32>>);

impl Open {
    fn new(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What the connection waits for; each has its time.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Waits {
    Unknown,
    /// The next request.
    Idle,
    /// Its exchanges, which have deadlines of their own.
    Busy,
    /// The client, which does not read; so far it has taken this.
    Full(u64),
}

struct Driver {
    client: Rc<Client>,
    connection: h2::server::Connection<Wire, Bytes>,
    /// Asks a silent client whether it is still there.
    pings: Option<KeepAlive>,
    wire: Wire,
    deadline: Deadline,
    open: Rc<Cell<u32>>,
    waits: Waits,
    /// The client was told that this is the end.
    closing: bool,
}

impl Driver {
    /// The next request; `None` = the connection has ended, or must.
    async fn next(&mut self) -> Option<(Request<RecvStream>, SendResponse<Bytes>)> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(Request<RecvStream>, SendResponse<Bytes>)>> {
        loop {
            if !self.closing && !self.client.goes_on() {
                self.close();
            }
            match self.connection.poll_accept(context) {
                Poll::Ready(Some(Ok(request))) => {
                    self.waits = Waits::Unknown;
                    return Poll::Ready(Some(request));
                }
                Poll::Ready(Some(Err(_)) | None) => {
                    return Poll::Ready(None);
                }
                Poll::Pending => {}
            }
            if let Some(code) = self.wire.sentence(context) {
                let flood = code == h2::Reason::ENHANCE_YOUR_CALM;
                let reason = if flood { Reason::Http2Flood } else { Reason::BadRequestFraming };
                self.client.gateway.totals.count_reason(reason);
                self.say(code, context);
                return Poll::Ready(None);
            }
            let received = self.wire.received();
            if self.pings.as_mut().is_some_and(|pings| pings.poll(context, received).is_ready()) {
                self.client.gateway.totals.count_reason(Reason::PingTimeout);
                return Poll::Ready(None);
            }
            match self.wire.poll_push(context) {
                Poll::Ready(Ok(())) => self.wait(if self.open.get() == 0 { Waits::Idle } else { Waits::Busy }),
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => self.wait(Waits::Full(self.wire.progress())),
            }
            if self.deadline.poll_expired(context).is_pending() {
                return Poll::Pending;
            }
            if !self.closing && !self.deadline.ended() && !self.client.goes_on() {
                continue;
            }
            if self.closing || self.deadline.ended() || self.waits != Waits::Idle {
                self.say(h2::Reason::NO_ERROR, context);
                return Poll::Ready(None);
            }
            self.close();
        }
    }

    /// End the connection with a GOAWAY that tells which requests were taken.
    fn say(&mut self, reason: h2::Reason, context: &mut Context<'_>) {
        self.connection.abrupt_shutdown(reason);
        let _ = self.connection.poll_closed(context);
    }

    async fn linger(self) {
        let Self { connection, wire, deadline, .. } = self;
        drop(connection);
        end(&wire, &deadline).await;
    }

    /// Say that no further request will be taken; what is open may end.
    fn close(&mut self) {
        self.closing = true;
        self.waits = Waits::Unknown;
        self.connection.graceful_shutdown();
    }

    fn wait(&mut self, waits: Waits) {
        if self.waits == waits {
            return;
        }
        self.waits = waits;
        let runtime = self.client.gateway.runtime();
        let wait_ms = match waits {
            Waits::Idle if self.closing => CLOSING_MS,
            Waits::Idle | Waits::Full(_) => runtime.snapshot.gateway.idle_ms,
            Waits::Busy | Waits::Unknown => 0,
        };
        // Its age ends a connection that is not idle, too; but only once.
        self.deadline.set_within(wait_ms, if self.closing { 0 } else { self.client.until_ms });
        // Busy, too: a call may last for hours. Once told, the client keeps its time to take notice.
        self.deadline.hear_of_drain(!self.closing);
        if waits == Waits::Idle {
            self.wire.release();
        }
    }
}
