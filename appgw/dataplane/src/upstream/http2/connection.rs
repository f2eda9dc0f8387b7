//! The life of a shared connection: connected, driven, ended.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::Builder;
use weirgate_shared::clock;
use weirgate_shared::reason::Reason;
use weirgate_shared::snapshot::PoolProtocol;

use super::super::UpstreamPool;
use super::super::http1;
use super::share::Share;
use crate::buffer::Buffer;
use crate::http2::{FrameWatch, KeepAlive};
use crate::plane::Gateway;
use crate::wire::Wire;

/// Bytes of an answer that may come before its client has taken any; those of all streams together have room on
/// the connection, so that one slow client does not stop the others.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes of each request that the h2 crate may hold until the socket takes them.
const SEND_BYTES: usize = 64 * 1024;
const HEADER_BYTES: u32 = 64 * 1024;
/// How long the endpoint gets to read the end.
const CLOSING_MS: u64 = 2_000;

/// Connect, and then drive the connection until its end.
pub(super) async fn open(pool: Rc<UpstreamPool>, index: usize, gateway: Rc<Gateway>, share: Rc<Share>) {
    let shares = &pool.connections[index].shares;
    let tls = pool.tls.as_ref().map(|tls| &tls.chosen);
    let opened = match pool.connect(index, tls, gateway.deadlines.register()).await {
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
    let wire = Wire::new(io, Buffer::default(), FrameWatch::new(0, clock::coarse_ms()));
    let connection_window = STREAM_WINDOW_BYTES.saturating_mul(pool.pool.settings.max_streams).min(i32::MAX as u32);
    let handshake = Builder::new()
        .enable_push(false)
        .max_concurrent_streams(0)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(connection_window)
        .max_header_list_size(HEADER_BYTES)
        .max_send_buffer_size(SEND_BYTES)
        .handshake::<_, Bytes>(wire.clone());
    // It only writes, into memory.
    let Ok((sender, mut connection)) = handshake.await else { return share.set_failed(Reason::UpstreamBadResponse) };
    let mut pings = {
        let runtime = gateway.runtime();
        let settings = &runtime.snapshot.gateway;
        connection.ping_pong().map(|pings| {
            let times = (settings.http2_ping_interval_ms, settings.http2_ping_timeout_ms);
            KeepAlive::starting_with_one(pings, gateway.deadlines.register(), times)
        })
    };
    share.set_ready(sender);
    deadline.clear();
    poll_fn(|context| {
        let ended = Pin::new(&mut connection).poll(context).is_ready();
        if let Some(pings) = &mut pings {
            match pings.poll(context, wire.received()) {
                Poll::Ready(()) => return Poll::Ready(()),
                Poll::Pending if pings.answered() => share.set_settled(),
                Poll::Pending => {}
            }
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
    share.retire();
    drop((connection, open));
    pool.tell_freed();
    deadline.set(CLOSING_MS);
    poll_fn(|context| match wire.poll_push(context) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => deadline.poll_expired(context),
    })
    .await;
}
