//! Connections to endpoints: kept alive per thread, the last used first, within limits.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use rustls::ClientConfig;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use weirgate_shared::balance::Choice;
use weirgate_shared::clock;
use weirgate_shared::connect::connect_endpoint;
use weirgate_shared::deadline::{Deadline, Deadlines};
use weirgate_shared::endpoint::{Endpoint, OpenConnection};
use weirgate_shared::metrics::Counter;
use weirgate_shared::pool::Pool;
use weirgate_shared::reason::Reason;

use crate::io::{Io, Replay, Stream};
use crate::tls;

/// A connection to an endpoint.
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    /// It has carried a request before.
    pub(crate) reused: bool,
    idle_since_ms: u64,
    transport: u64,
    _open: OpenConnection,
}

/// The idle connections of one endpoint; they outlive snapshots.
#[derive(Default)]
pub(crate) struct Idle {
    connections: RefCell<Vec<Connection>>,
}

impl Idle {
    /// The last used one that is still good.
    fn take(&self, transport: u64) -> Option<Connection> {
        loop {
            let connection = self.connections.borrow_mut().pop()?;
            if connection.transport == transport && connection.stream.is_quiet() {
                return Some(connection);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.connections.borrow().is_empty()
    }

    /// Close those that have been idle for too long; they stand in the order of their last use.
    pub(crate) fn expire(&self, idle_timeout_ms: u64) {
        if idle_timeout_ms == 0 {
            return;
        }
        let now = clock::coarse_ms();
        let mut connections = self.connections.borrow_mut();
        let fresh = connections.partition_point(|connection| connection.idle_since_ms + idle_timeout_ms <= now);
        connections.drain(..fresh);
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

/// A pool with its connections.
pub(crate) struct UpstreamPool {
    pub(crate) pool: Pool,
    pub(crate) idle: Vec<Rc<Idle>>,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Tells connections made with other TLS settings apart.
    pub(crate) transport: u64,
    pub(crate) freed: Notify,
    pub(crate) waiting: Cell<u32>,
}

impl UpstreamPool {
    /// Whether member `index` may carry one more request.
    fn has_room(&self, index: usize) -> bool {
        self.pool.has_room(index) || !self.idle[index].is_empty()
    }

    /// Choose a member that was not tried, waiting for room when every one is at its limit.
    pub(crate) async fn choose(
        &self,
        preferred: Option<usize>,
        tried: &[usize],
        choice: &Choice<'_>,
        stats: &UpstreamStats,
        deadline: &Deadline,
    ) -> Result<usize, Reason> {
        if let Some(index) = preferred.filter(|index| !tried.contains(index) && self.has_room(*index)) {
            return Ok(index);
        }
        let untried = |index: usize| !tried.contains(&index);
        if self.pool.settings.max_connections == 0 {
            return self.pool.pick(&untried, choice);
        }
        deadline.set(self.pool.settings.queue_timeout_ms);
        loop {
            match self.pool.pick_with_room(&untried, &|index| self.has_room(index), choice) {
                Err(Reason::PoolOverloaded) => {}
                chosen => return chosen,
            }
            if self.waiting.get() >= self.pool.settings.queue_size {
                return Err(Reason::QueueFull);
            }
            stats.queued.add_one();
            self.waiting.set(self.waiting.get() + 1);
            let mut freed = std::pin::pin!(self.freed.notified());
            let timed_out = poll_fn(|context| match freed.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending => deadline.poll_expired(context).map(|()| true),
            })
            .await;
            self.waiting.set(self.waiting.get() - 1);
            if timed_out {
                return Err(Reason::PoolOverloaded);
            }
        }
    }

    /// A connection to member `index`: an idle one, unless `fresh`, or a new one.
    pub(crate) async fn obtain(
        &self,
        index: usize,
        fresh: bool,
        deadlines: &Deadlines,
        stats: &UpstreamStats,
    ) -> Result<Connection, Reason> {
        if !fresh && let Some(connection) = self.idle[index].take(self.transport) {
            stats.reused.add_one();
            return Ok(connection);
        }
        let endpoint = &self.pool.members[index].endpoint;
        let connected = self.open(endpoint, deadlines.register()).await;
        match &connected {
            Ok(_) => {
                endpoint.connected();
                stats.opened.add_one();
            }
            Err(reason) => self.pool.connect_failed(index, *reason),
        }
        connected
    }

    async fn open(&self, endpoint: &Rc<Endpoint>, deadline: Deadline) -> Result<Connection, Reason> {
        let timeout_ms = self.pool.settings.connect_timeout_ms;
        // Counted from the attempt on: a burst must not see the count of before it.
        let open = endpoint.open();
        let socket = connect_endpoint(endpoint, timeout_ms, &deadline).await?;
        let io = self.secure(socket, endpoint, timeout_ms, &deadline).await?;
        Ok(Connection {
            stream: Stream::new(io, deadline),
            reused: false,
            idle_since_ms: 0,
            transport: self.transport,
            _open: open,
        })
    }

    async fn secure(
        &self,
        socket: tokio::net::TcpStream,
        endpoint: &Endpoint,
        timeout_ms: u64,
        deadline: &Deadline,
    ) -> Result<Io, Reason> {
        let (Some(config), Some(settings)) = (&self.tls, &self.pool.settings.tls) else { return Ok(Io::Plain(socket)) };
        let name = tls::server_name(settings, endpoint.host()).ok_or(Reason::UpstreamTlsFailed)?;
        let mut handshake =
            std::pin::pin!(TlsConnector::from(Arc::clone(config)).connect(name, Replay::new(Vec::new(), socket)));
        deadline.set(timeout_ms.saturating_mul(2));
        let secured = poll_fn(|context| match handshake.as_mut().poll(context) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => deadline.poll_expired(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
        })
        .await;
        secured.map(|stream| Io::Tls(Box::new(stream.into()))).map_err(|_| Reason::UpstreamTlsFailed)
    }

    /// Keep a connection for later, when it is still good and there is room for it.
    pub(crate) fn release(&self, index: usize, mut connection: Connection) {
        let mut idle = self.idle[index].connections.borrow_mut();
        if connection.stream.input.borrow().is_empty() && idle.len() < self.pool.settings.max_idle_connections as usize
        {
            connection.reused = true;
            connection.idle_since_ms = clock::coarse_ms();
            connection.stream.deadline.clear();
            idle.push(connection);
        } else {
            drop(connection);
        }
        drop(idle);
        self.tell_freed();
    }

    /// A connection is idle or closed: somebody may be waiting for it.
    pub(crate) fn tell_freed(&self) {
        if self.waiting.get() > 0 {
            self.freed.notify_one();
        }
    }
}
