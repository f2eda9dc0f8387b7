//! Carrying a request to an endpoint: which one, which connection, and when another one may be tried.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use smallvec::SmallVec;
use weirgate_shared::balance::Choice;
use weirgate_shared::clock;
use weirgate_shared::deadline::TICK_MS;
use weirgate_shared::reason::Reason;

use crate::config::Route;
use crate::downstream::Downstream;
use crate::exchange::{Scratch, own_error};
use crate::forwarded::replaced;
use crate::grpc;
use crate::grpc_web::Bridge;
use crate::http1;
use crate::insight::Record;
use crate::message::{Framing, Headers, RequestHead};
use crate::transfer::{Received, both};
use crate::upstream::{Asked, Obtained, Reuse, Upstream, UpstreamPool, Wish};
use crate::websocket;

/// How long a client may take to be told how its call ended.
const LAST_WORDS_MS: u64 = 2_000;

/// How often others may take the room that a request has waited for.
const OVERTAKEN: u32 = 16;

/// Why an exchange did not end well.
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    /// Nothing of an answer has come, so trying again is possible where the method allows it.
    pub(crate) unanswered: bool,
    /// The endpoint says that it has not looked at the request, so that any can be sent again.
    pub(crate) unprocessed: bool,
    /// It is the connection that failed, which had carried requests before.
    stale: bool,
}

impl Failure {
    /// Nothing of an answer has come.
    fn unanswered(reason: Reason) -> Self {
        Self { reason, unanswered: true, unprocessed: false, stale: false }
    }

    /// What went wrong with an endpoint.
    pub(crate) fn of(upstream: &impl Upstream, reason: Reason, unanswered: bool) -> Self {
        let stale = upstream.is_reused() && upstream.is_lost();
        Self { reason, unanswered, unprocessed: upstream.is_unprocessed(), stale }
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, unanswered: false, unprocessed: false, stale: false }
    }
}

/// Carries one request to an endpoint and its response back.
pub(crate) struct Carrier<'a, D> {
    pub(crate) down: &'a D,
    pub(crate) route: &'a Route,
    pub(crate) pool: &'a Rc<UpstreamPool>,
    pub(crate) preferred: Option<usize>,
    pub(crate) start_us: u64,
    /// What changes the bodies, if anything does.
    pub(crate) bridge: Option<RefCell<Bridge>>,
    /// How long the endpoint may take to begin to answer.
    pub(crate) response_head_ms: u64,
    /// How long may pass between two pieces of a body.
    pub(crate) between_bytes_ms: Cell<u64>,
    /// How the answer's body leaves, once its head has.
    pub(crate) out_framing: Cell<Framing>,
    /// When the whole exchange must have ended (coarse clock; 0 = never).
    pub(crate) limit_ms: u64,
    pub(crate) upload_done: Cell<bool>,
    pub(crate) head_sent: Cell<bool>,
    pub(crate) bytes_in: Cell<u64>,
    /// How the request's body comes.
    pub(crate) in_framing: Cell<Framing>,
    /// Where the body begins behind the written head.
    head_length: Cell<usize>,
    /// Something of the request's body was asked of the client.
    pub(crate) upload_begun: Cell<bool>,
    /// What was sent of a body to an endpoint that may say that it has not looked at it; `None` = too much.
    pub(crate) kept: RefCell<Option<Vec<u8>>>,
    /// The key of a WebSocket request is ours.
    pub(crate) own_key: Cell<bool>,
    /// Bytes of earlier answers in `out`, which stay when this one fails.
    mark: Cell<usize>,
}

/// What is known of a request before it is carried.
pub(crate) struct Bound {
    /// The member that the client is bound to.
    pub(crate) preferred: Option<usize>,
    pub(crate) bridge: Option<Bridge>,
    pub(crate) start_us: u64,
}

impl<'a, D: Downstream> Carrier<'a, D> {
    pub(crate) fn new(
        down: &'a D,
        route: &'a Route,
        pool: &'a Rc<UpstreamPool>,
        head: &RequestHead,
        bound: Bound,
    ) -> Self {
        let settings = &route.settings;
        let Bound { preferred, bridge, start_us } = bound;
        // The silence of a call is no failure: its own deadline says how long it may last.
        let call = grpc::content_type(head).is_some();
        let timeout_ms = if call { grpc::timeout_ms(head).unwrap_or(0) } else { 0 };
        let limit_ms = match (settings.total_ms, timeout_ms) {
            (0, 0) => 0,
            // Never early: the coarse clock may be one tick behind.
            (0, ms) | (ms, 0) => clock::coarse_ms() + TICK_MS + ms,
            (total_ms, timeout_ms) => clock::coarse_ms() + TICK_MS + total_ms.min(timeout_ms),
        };
        let patience = |ms: u64| if call { settings.upgrade_idle_ms } else { ms };
        Self {
            bridge: bridge.map(RefCell::new),
            response_head_ms: patience(settings.response_head_ms),
            between_bytes_ms: Cell::new(patience(settings.between_bytes_ms)),
            out_framing: Cell::default(),
            down,
            route,
            pool,
            preferred,
            start_us,
            limit_ms,
            upload_done: Cell::new(false),
            head_sent: Cell::new(false),
            bytes_in: Cell::new(0),
            in_framing: Cell::default(),
            head_length: Cell::new(0),
            upload_begun: Cell::new(false),
            kept: RefCell::new(Some(Vec::new())),
            own_key: Cell::new(false),
            mark: Cell::new(0),
        }
    }

    /// Carry the request; false = close the client's connection.
    pub(crate) async fn carry(&self, scratch: &mut Scratch, record: &mut Record) -> bool {
        self.mark.set(scratch.out.len());
        let result = self.attempts(scratch, record).await;
        record.bytes_in = self.bytes_in.get();
        match result {
            Ok(keep) => keep,
            Err(failure) if self.head_sent.get() => {
                // Part of an answer is out: the only honest end is to break off.
                record.reason = Some(failure.reason);
                if record.grpc.is_some() && Box::pin(self.end_call(failure.reason, scratch)).await {
                    record.grpc_status = Some(grpc::status_of(failure.reason));
                    return false;
                }
                scratch.out.clear();
                self.down.break_off(failure.reason);
                false
            }
            Err(failure) if failure.reason == Reason::ClientGone => {
                record.reason = Some(failure.reason);
                record.status = failure.reason.status();
                false
            }
            Err(failure) => {
                // A head that was written but not yet sent is taken back.
                scratch.out.truncate(self.mark.get());
                record.bytes_out = 0;
                let keep = scratch.head.keep_alive && self.upload_done.get();
                if !self.upload_done.get() {
                    self.down.leave_body();
                }
                own_error(self.down, scratch, record, failure.reason, None, keep)
            }
        }
    }

    /// End a call of which a part is out with the status of what went wrong, where trailers can say it.
    async fn end_call(&self, reason: Reason, scratch: &mut Scratch) -> bool {
        if reason == Reason::ClientGone || self.out_framing.get() != Framing::Chunked {
            return false;
        }
        let mut trailers = Headers::default();
        grpc::push_failure(&mut trailers, reason);
        self.end_answer(&mut scratch.out, Some(&trailers));
        // The limit may have passed: the client gets a moment all the same.
        self.down.send(&mut scratch.out, LAST_WORDS_MS, 0).await.is_ok()
    }

    /// Try endpoints until one answers, as far as the request allows it.
    async fn attempts(&self, scratch: &mut Scratch, record: &mut Record) -> Result<bool, Failure> {
        let gateway = &self.down.client().gateway;
        let mut body = self.prepare(scratch, record)?;
        let mut tried: SmallVec<[usize; 4]> = SmallVec::new();
        let mut stale_retry = None;
        let mut stale_retried = false;
        let mut overtaken = 0;
        let mut left = self.pool.pool.settings.retries;
        let mut last = None;
        let facts = &self.down.client().facts;
        let client = SocketAddr::new(record.client.unwrap_or(facts.client.ip()), facts.client.port());
        let choice = Choice { random: &gateway.random, client };
        let until_ms = self.queue_until_ms();
        loop {
            let stats = &gateway.totals.upstream;
            let (index, fresh) = if let Some(index) = stale_retry.take() {
                (index, true)
            } else {
                let upgrade = scratch.head.upgrade.is_some();
                let wish = Wish { preferred: self.preferred, tried: &tried, upgrade, until_ms };
                let chosen = self.pool.choose(&wish, &choice, stats, self.down.deadline()).await;
                // When nobody is left, what went wrong with the last one tells more.
                (chosen.map_err(|reason| last.unwrap_or_else(|| self.timeout(reason)))?, false)
            };
            let endpoint = &self.pool.pool.members[index].endpoint;
            let in_flight = endpoint.enter();
            record.queue_us = clock::process_us() - self.start_us - record.head_us;
            let upgrade = scratch.head.upgrade.is_some();
            let may_repeat = scratch.head.repeatable();
            let reuse = if fresh {
                Reuse::Never
            } else if may_repeat {
                Reuse::Any
            } else {
                Reuse::Sure
            };
            let obtained = self.pool.obtain(index, reuse, upgrade, gateway).await;
            if matches!(obtained, Ok(Obtained::Full)) && overtaken < OVERTAKEN {
                // Others were quicker: wait for room again.
                overtaken += 1;
                tokio::task::yield_now().await;
                continue;
            }
            if last.is_some() {
                record.retries += 1;
                stats.retries.add_one();
            }
            record.endpoint = Some(Rc::clone(endpoint));
            let carried = match obtained {
                Ok(Obtained::Http1(upstream)) => self.exchange(upstream, index, body, scratch, record).await,
                // Apart, so that requests in HTTP/1.1 do not hold the room for it.
                Ok(Obtained::Http2(upstream)) => Box::pin(self.exchange(*upstream, index, body, scratch, record)).await,
                Ok(Obtained::Full) => Err(Failure::unanswered(Reason::PoolOverloaded)),
                // Nothing was sent: any request may go elsewhere.
                Err(reason) => Err(Failure::unanswered(reason)),
            };
            let failure = match carried {
                Ok(keep) => return Ok(keep),
                Err(failure) => failure,
            };
            let begun = self.upload_begun.get();
            let unprocessed = failure.unprocessed && self.rewind(scratch);
            // What was sent piece by piece is sent as a whole then; what was not begun still follows.
            body &= !(unprocessed && begun);
            // A kept connection may have died unseen: the same endpoint gets a fresh one first.
            if failure.stale && !stale_retried && (unprocessed || failure.unanswered && scratch.head.repeatable()) {
                stale_retried = true;
                stale_retry = Some(index);
            }
            drop(in_flight);
            self.pool.tell_freed();
            let untouched = record.connect_us == 0 && !self.head_sent.get() && is_connect_failure(failure.reason);
            if !(untouched || unprocessed || (failure.unanswered && scratch.head.repeatable())) {
                return Err(failure);
            }
            if stale_retry.is_none() {
                if left == 0 {
                    return Err(failure);
                }
                left -= 1;
                tried.push(index);
            }
            last = Some(failure.reason);
        }
    }

    /// How long it may wait for a place at an endpoint, all waits together (coarse clock; 0 = without end).
    fn queue_until_ms(&self) -> u64 {
        let queue_ms = match self.pool.pool.settings.queue_timeout_ms {
            0 => 0,
            // Never early: the coarse clock may be one tick behind.
            timeout_ms => clock::coarse_ms() + TICK_MS + timeout_ms,
        };
        match (queue_ms, self.limit_ms) {
            (0, limit_ms) | (limit_ms, 0) => limit_ms,
            (queue_ms, limit_ms) => queue_ms.min(limit_ms),
        }
    }

    /// Write the request's head, and its body when all of that is here already. Says whether a body has to follow.
    fn prepare(&self, scratch: &mut Scratch, record: &mut Record) -> Result<bool, Failure> {
        let client = self.down.client();
        let Scratch { head, body, extra, request_id, .. } = scratch;
        body.clear();
        extra.clear();
        self.own_key.set(websocket::ensure_key(head));
        self.in_framing.set(head.framing);
        let mut body_follows = head.framing != Framing::None;
        if body_follows && self.bridge.is_some() {
            // Its bytes change, and so does their number.
            head.framing = Framing::Chunked;
        } else if body_follows && self.down.take_whole_body(head.framing, body) {
            let length = body.len() as u64;
            let limit = self.route.settings.body_bytes;
            self.bytes_in.set(length);
            body_follows = false;
            if limit != 0 && length > limit {
                return Err(Reason::BodyTooLarge.into());
            }
            head.framing = Framing::Length(length);
        }
        self.upload_done.set(!body_follows);
        client.introduction.write(extra, head, head.bytes(record.authority), client.trusted, request_id);
        self.write_request(scratch);
        Ok(body_follows)
    }

    /// Write the request as far as it is here.
    fn write_request(&self, scratch: &mut Scratch) {
        let Scratch { head, wire, body, extra, .. } = scratch;
        wire.clear();
        if self.pool.may_speak_http1() {
            http1::request_head(wire, head, replaced, &[extra]);
        }
        self.head_length.set(wire.len());
        wire.extend_from_slice(body);
    }

    /// Make a body that was sent piece by piece, and not looked at, into one that is sent as a whole. Says
    /// whether the request can be sent again.
    fn rewind(&self, scratch: &mut Scratch) -> bool {
        if !self.upload_begun.get() {
            return true;
        }
        if !self.upload_done.get() {
            return false;
        }
        let Some(kept) = self.kept.take() else { return false };
        self.upload_begun.set(false);
        scratch.head.framing = Framing::Length(kept.len() as u64);
        scratch.body = kept;
        self.write_request(scratch);
        true
    }

    async fn exchange<U: Upstream>(
        &self,
        upstream: U,
        index: usize,
        body: bool,
        scratch: &mut Scratch,
        record: &mut Record,
    ) -> Result<bool, Failure> {
        if !upstream.is_reused() {
            record.connect_us = clock::process_us() - self.start_us - record.head_us - record.queue_us;
        }
        // Answers to earlier requests on this connection must not wait for this endpoint.
        let idle_ms = self.down.client().gateway.runtime().snapshot.gateway.idle_ms;
        if !scratch.out.is_empty() {
            let written = self.write_out(&mut scratch.out, idle_ms).await;
            // Part of an earlier answer is out then: this request gets none any more.
            self.head_sent.set(written.is_err());
            written?;
        }
        self.mark.set(0);
        let asked = Asked {
            head: &scratch.head,
            extra: &scratch.extra,
            wire: &scratch.wire,
            head_length: self.head_length.get(),
            body_follows: body,
        };
        let sent = upstream.ask(&asked, self.between_bytes_ms.get(), self.limit_ms).await;
        if let Err(error) = sent {
            let reason = match error.kind() {
                io::ErrorKind::TimedOut => Some(self.timeout(Reason::BodyTimeout)),
                io::ErrorKind::InvalidInput => return Err(Reason::BadRequestTarget.into()),
                io::ErrorKind::Unsupported => return Err(Reason::UpstreamNoUpgrade.into()),
                // After half a head nothing may follow. With a body to come, an endpoint that has closed may
                // have answered already: that answer is worth reading.
                _ if !body || upstream.is_unprocessed() => Some(Reason::UpstreamClosedEarly),
                _ => None,
            };
            if let Some(reason) = reason {
                return Err(Failure::of(&upstream, reason, true));
            }
        }
        upstream.deadline().set_within(0, self.limit_ms);
        let framing = scratch.head.framing;
        let received = if body {
            let upload = self.upload(&upstream, framing);
            let receive = self.receive(&upstream, index, scratch, record);
            // Apart, as all that few requests need: each request, and each idle connection, would hold the room.
            Box::pin(both(upload, receive, || self.upload_done.get())).await?
        } else {
            self.receive(&upstream, index, scratch, record).await?
        };
        match received {
            Received::Whole { keep_upstream, keep_client } => {
                upstream.release(self.pool, index, keep_upstream);
                let out_bytes = scratch.out.len() as u64;
                // The rest of the answer is bounded as what went before it.
                self.write_out(&mut scratch.out, idle_ms).await?;
                record.bytes_out += out_bytes;
                if !self.upload_done.get() {
                    self.down.leave_body();
                }
                Ok(keep_client)
            }
            Received::Upgraded => {
                Box::pin(self.join(&upstream, record)).await;
                upstream.release(self.pool, index, false);
                Ok(false)
            }
        }
    }
}

fn is_connect_failure(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectFailed
            | Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::Exhausted
            | Reason::UpstreamNoHttp2
            | Reason::UpstreamTlsFailed
    )
}
