//! The life of a shared connection: connected, driven, ended.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::Builder;
use weirgate_shared::endpoint::OpenConnection;
use weirgate_shared::reason::Reason;
use weirgate_shared::snapshot::PoolProtocol;

use super::super::UpstreamPool;
use super::super::http1;
use super::share::Share;
use crate::buffer::Buffer;
use crate::http1::RESPONSE_HEADER_BYTES;
use crate::http2::{FrameWatch, KeepAlive};
use crate::plane::Gateway;
use crate::wire::Wire;

/// Bytes of an answer that may come before its client has taken any; those of all streams together have room on
/// the connection, so that one slow client does not stop the others.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes of each request that the h2 crate may hold until the socket takes them.
const SEND_BYTES: usize = 64 * 1024;
/// The h2 crate does not tell a head beyond its limit from one that is malformed: it gets a larger limit than ours.
const HEADER_BYTES: u32 = 2 * RESPONSE_HEADER_BYTES as u32 + 16 * 1024;
/// Streams that were given up and are remembered, since frames may still come for them.
const FORGOTTEN_STREAMS: usize = 4096;
/// What DATA frames that wait for their clients may cost: 256 less their length each.
const DATA_FRAME_BUDGET: usize = 64 * 1024 * 1024;
/// How long the endpoint gets to read the end.
const CLOSING_MS: u64 = 2_000;

/// Connect, and then drive the connection until its end.
pub(super) async fn open(
    pool: Rc<UpstreamPool>,
    index: usize,
    gateway: Rc<Gateway>,
    share: Rc<Share>,
    open: OpenConnection,
) {
    let shares = &pool.connections[index].shares;
    let tls = pool.tls.as_ref().map(|tls| &tls.chosen);
    let opened = match pool.connect(index, tls, gateway.deadlines.register(), open, true).await {
        Ok(opened) => opened,
        Err(reason) => {
            share.set_failed(reason);
            return pool.tell_freed();
        }
    };
    if tls.is_some() && !opened.io.agreed_http2() {
        if pool.pool.settings.protocol == PoolProtocol::Auto {
            shares.set_endpoint_speaks_http1(true);
            let connection = http1::Connection::new(opened, pool.transport);
            pool.connections[index].idle.give(connection, &pool);
            share.set_speaks_http1();
        } else {
            share.set_failed(Reason::UpstreamNoHttp2);
        }
        return pool.tell_freed();
    }
    shares.set_endpoint_speaks_http1(false);
    let super::super::connect::Opened { io, deadline, open } = opened;
    let wire = Wire::new(io, Buffer::default(), FrameWatch::of_answers());
    let connection_window = STREAM_WINDOW_BYTES.saturating_mul(pool.pool.settings.max_streams).min(i32::MAX as u32);
    let handshake = Builder::new()
        .enable_push(false)
        .max_concurrent_streams(0)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(connection_window)
        .max_header_list_size(HEADER_BYTES)
        .max_send_buffer_size(SEND_BYTES)
        // Clients that cancel, or do not read, must not end the connection of all others: the crate counts what
        // still comes for forgotten streams, and small frames that wait.
        .max_concurrent_reset_streams(FORGOTTEN_STREAMS)
        .max_local_error_reset_streams(None)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .handshake::<_, Bytes>(wire.clone());
    // It only writes, into memory.
    let Ok((sender, mut connection)) = handshake.await else {
        share.set_failed(Reason::UpstreamBadResponse);
        return pool.tell_freed();
    };
    let mut pings = {
        let runtime = gateway.runtime();
        let settings = &runtime.snapshot.gateway;
        connection.ping_pong().map(|pings| {
            let times = (settings.http2_ping_interval_ms, settings.http2_ping_timeout_ms);
            KeepAlive::starting_with_one(pings, gateway.deadlines.register(), times)
        })
    };
    share.set_ready(sender);
    // An endpoint that never answers the first PING is taken as it is.
    deadline.set(pool.pool.settings.connect_timeout_ms.max(1));
    // From here on those who use it keep it: an endpoint that is no longer configured has nobody who does.
    let (weak_pool, weak_share) = (Rc::downgrade(&pool), Rc::downgrade(&share));
    let waiting = Rc::clone(&pool.waiting);
    drop((pool, share));
    let settle = || {
        if let (Some(pool), Some(share)) = (weak_pool.upgrade(), weak_share.upgrade()) {
            share.set_settled(&pool);
        }
        waiting.tell_freed();
    };
    let mut settled = false;
    poll_fn(|context| {
        let mut known = deadline.poll_expired(context).is_ready();
        let ended = Pin::new(&mut connection).poll(context).is_ready() || wire.sentence(context).is_some();
        if let Some(pings) = &mut pings {
            if pings.poll(context, wire.received()).is_ready() {
                return Poll::Ready(());
            }
            known |= pings.answered();
        }
        if known && !settled {
            settled = true;
            deadline.clear();
            settle();
        }
        match wire.poll_push(context) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            _ if ended => Poll::Ready(()),
            Poll::Ready(Ok(())) => {
                wire.release();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    if let Some(share) = weak_share.upgrade() {
        share.retire();
    }
    drop((connection, open));
    waiting.tell_freed();
    deadline.set(CLOSING_MS);
    poll_fn(|context| match wire.poll_push(context) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => deadline.poll_expired(context),
    })
    .await;
}
