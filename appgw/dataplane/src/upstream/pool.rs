//! A pool with its connections: whom to ask, over which connection, within limits.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use rustls::ClientConfig;
use tokio::sync::Notify;
use weirgate_shared::balance::Choice;
use weirgate_shared::clock;
use weirgate_shared::deadline::Deadline;
use weirgate_shared::endpoint::Endpoint;
use weirgate_shared::metrics::Counter;
use weirgate_shared::pool::Pool;
use weirgate_shared::reason::Reason;
use weirgate_shared::snapshot::PoolProtocol;

use super::http1::{self, Idle};
use super::http2::{self, Exchange, Shares, Verdict};
use crate::plane::Gateway;

/// The connections of one endpoint that further requests may use; they outlive snapshots.
#[derive(Default)]
pub(crate) struct Connections {
    pub(super) idle: Idle,
    pub(super) shares: Shares,
}

impl Connections {
    /// Close what has been idle for too long, or is worn.
    pub(crate) fn expire(&self, pool: &UpstreamPool, endpoint: &Endpoint) {
        self.idle.expire(pool.pool.settings.idle_timeout_ms);
        self.shares.expire(pool);
        if endpoint.connections.get() == 0 {
            // When there is one again, it may choose anew.
            self.shares.set_endpoint_speaks_http1(false);
        }
        pool.tell_freed();
    }
}

/// Counts of all upstream connections.
#[derive(Default)]
pub(crate) struct UpstreamStats {
    pub(crate) opened: Counter,
    pub(crate) reused: Counter,
    pub(crate) retries: Counter,
    pub(crate) queued: Counter,
}

/// TLS towards a pool's endpoints, by what is offered in ALPN.
pub(crate) struct PoolTls {
    /// HTTP/1.1 alone.
    pub(crate) http1: Arc<ClientConfig>,
    /// What the pool's protocol says.
    pub(crate) chosen: Arc<ClientConfig>,
}

/// A pool with its connections.
pub(crate) struct UpstreamPool {
    pub(crate) pool: Pool,
    pub(crate) connections: Vec<Rc<Connections>>,
    pub(crate) tls: Option<PoolTls>,
    /// Tells connections made with other TLS settings apart.
    pub(crate) transport: u64,
    /// Who waits for a place; it outlives the snapshot, as the connections do.
    pub(crate) waiting: Rc<Waiting>,
}

/// The requests of a pool that wait for a place at one of its endpoints.
#[derive(Default)]
pub(crate) struct Waiting {
    freed: Notify,
    count: Cell<u32>,
}

impl Waiting {
    /// A place has come free, or may have: one of them looks.
    pub(crate) fn tell_freed(&self) {
        if self.count.get() > 0 {
            self.freed.notify_one();
        }
    }
}

/// What a request wants of an endpoint.
pub(crate) struct Wish<'a> {
    /// The member that the client is bound to.
    pub(crate) preferred: Option<usize>,
    /// Members that have failed it.
    pub(crate) tried: &'a [usize],
    /// It wants to change the protocol.
    pub(crate) upgrade: bool,
    /// How long it may wait for a place (coarse clock; 0 = without end).
    pub(crate) until_ms: u64,
}

/// Whether a request may go out on a connection that has carried others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    Never,
    /// When the kernel, asked for it, knows of no close: what cannot be sent again is worth the system call.
    Sure,
    /// When the runtime has seen no close: it is sent again if there was one.
    Any,
}

/// A way to an endpoint for one request.
pub(crate) enum Obtained {
    /// None: the endpoint has its maximum of connections after all.
    Full,
    Http1(http1::Connection),
    Http2(Box<Exchange>),
}

impl UpstreamPool {
    /// Whether requests to it may go out in HTTP/1.1.
    pub(crate) fn may_speak_http1(&self) -> bool {
        matches!(self.pool.settings.protocol, PoolProtocol::Http1 | PoolProtocol::Auto)
    }

    /// Whether a connection has carried enough, or is old enough, to be given up.
    pub(super) fn is_worn(&self, carried: u64, opened_ms: u64) -> bool {
        let settings = &self.pool.settings;
        (settings.max_requests != 0 && carried >= settings.max_requests)
            || (settings.connection_age_ms != 0 && opened_ms + settings.connection_age_ms <= clock::coarse_ms())
    }

    /// Whether member `index` may carry one more request.
    fn has_room(&self, index: usize, upgrade: bool) -> bool {
        let connections = &self.connections[index];
        let shared = match self.pool.settings.protocol {
            PoolProtocol::Http1 => false,
            PoolProtocol::Auto => !upgrade,
            PoolProtocol::H2 | PoolProtocol::H2c => true,
        };
        self.pool.has_room(index) || !connections.idle.is_empty() || (shared && connections.shares.has_room(self))
    }

    /// Choose a member that was not tried, waiting for room when every one is at its limit.
    pub(crate) async fn choose(
        &self,
        wish: &Wish<'_>,
        choice: &Choice<'_>,
        stats: &UpstreamStats,
        deadline: &Deadline,
    ) -> Result<usize, Reason> {
        let Wish { preferred, tried, upgrade, .. } = *wish;
        if let Some(index) = preferred.filter(|index| !tried.contains(index) && self.has_room(*index, upgrade)) {
            return Ok(index);
        }
        if self.pool.settings.max_connections == 0 {
            return self.pool.pick(&|index| !tried.contains(&index), choice);
        }
        Box::pin(self.wait_for_room(wish, choice, stats, deadline)).await
    }

    async fn wait_for_room(
        &self,
        wish: &Wish<'_>,
        choice: &Choice<'_>,
        stats: &UpstreamStats,
        deadline: &Deadline,
    ) -> Result<usize, Reason> {
        let Wish { tried, upgrade, until_ms, .. } = *wish;
        let untried = |index: usize| !tried.contains(&index);
        let mut waited = false;
        deadline.set_within(0, until_ms);
        loop {
            match self.pool.pick_with_room(&untried, &|index| self.has_room(index, upgrade), choice) {
                Err(Reason::PoolOverloaded) => {}
                chosen => {
                    if waited {
                        // A connection that came may have room for more than one.
                        self.tell_freed();
                    }
                    return chosen;
                }
            }
            if upgrade {
                // It may be waiting for the places of shared connections that nobody uses.
                self.connections.iter().for_each(|connections| connections.shares.retire_unused());
            }
            waited = true;
            if self.waiting.count.get() >= self.pool.settings.queue_size {
                return Err(Reason::QueueFull);
            }
            stats.queued.add_one();
            self.waiting.count.set(self.waiting.count.get() + 1);
            let mut freed = std::pin::pin!(self.waiting.freed.notified());
            let timed_out = poll_fn(|context| match freed.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending => deadline.poll_expired(context).map(|()| true),
            })
            .await;
            self.waiting.count.set(self.waiting.count.get() - 1);
            if timed_out {
                return Err(Reason::PoolOverloaded);
            }
        }
    }

    /// A way to member `index`: a kept connection, as far as `reuse` allows it, or a new one. `upgrade` = the request
    /// wants to change the protocol, which an endpoint that lets us choose is asked for in HTTP/1.1.
    pub(crate) async fn obtain(
        self: &Rc<Self>,
        index: usize,
        reuse: Reuse,
        upgrade: bool,
        gateway: &Rc<Gateway>,
    ) -> Result<Obtained, Reason> {
        let http1 = match self.pool.settings.protocol {
            PoolProtocol::H2 | PoolProtocol::H2c => false,
            PoolProtocol::Http1 => true,
            PoolProtocol::Auto => upgrade || self.falls_to_http1(index),
        };
        if http1 {
            return self.obtain_http1(index, reuse, upgrade, gateway).await;
        }
        match Box::pin(http2::obtain(self, index, reuse == Reuse::Never, gateway)).await? {
            Verdict::Stream(exchange) => Ok(Obtained::Http2(exchange)),
            Verdict::Full => Ok(Obtained::Full),
            Verdict::SpeaksHttp1 => self.obtain_http1(index, reuse, upgrade, gateway).await,
        }
    }

    /// Whether an endpoint that may choose is asked in HTTP/1.1: it has last chosen that, or nothing else is left,
    /// and no connection in HTTP/2 has room.
    fn falls_to_http1(&self, index: usize) -> bool {
        let Connections { idle, shares } = &*self.connections[index];
        let only_idle = !self.pool.has_room(index) && !idle.is_empty();
        (shares.endpoint_speaks_http1() || only_idle) && !shares.has_room(self)
    }

    async fn obtain_http1(
        &self,
        index: usize,
        reuse: Reuse,
        upgrade: bool,
        gateway: &Rc<Gateway>,
    ) -> Result<Obtained, Reason> {
        let stats = &gateway.totals.upstream;
        let kept = || self.connections[index].idle.take(self.transport, reuse == Reuse::Sure);
        if reuse != Reuse::Never
            && let Some(connection) = kept()
        {
            stats.reused.add_one();
            return Ok(Obtained::Http1(connection));
        }
        if self.pool.settings.protocol == PoolProtocol::Auto && !self.pool.has_room(index) {
            // Chosen when a shared connection had room, or might have come.
            return Ok(Obtained::Full);
        }
        let tls = self.tls.as_ref().map(|tls| &tls.http1);
        let open = self.pool.members[index].endpoint.open();
        // One that may choose its protocol may have no other than HTTP/2.
        let plainly = !(upgrade && self.pool.settings.protocol == PoolProtocol::Auto);
        let opened = Box::pin(self.connect(index, tls, gateway.deadlines.register(), open, plainly)).await?;
        stats.opened.add_one();
        Ok(Obtained::Http1(http1::Connection::new(opened, self.transport)))
    }

    /// A connection is idle or closed: somebody may be waiting for it.
    pub(crate) fn tell_freed(&self) {
        self.waiting.tell_freed();
    }
}
