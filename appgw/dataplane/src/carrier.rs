//! Carrying a request to an endpoint: which one, which connection, and when another one may be tried.

use std::cell::Cell;
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
use crate::http1;
use crate::insight::Record;
use crate::message::Framing;
use crate::transfer::{Received, both};
use crate::upstream::{self, UpstreamPool};

/// Why an exchange did not end well.
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    /// Nothing of an answer has come, so trying again is possible where the method allows it.
    pub(crate) unanswered: bool,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, unanswered: false }
    }
}

/// Carries one request to an endpoint and its response back.
pub(crate) struct Carrier<'a, D> {
    pub(crate) down: &'a D,
    pub(crate) route: &'a Route,
    pub(crate) pool: &'a UpstreamPool,
    pub(crate) preferred: Option<usize>,
    pub(crate) start_us: u64,
    /// When the whole exchange must have ended (coarse clock; 0 = never).
    pub(crate) limit_ms: u64,
    pub(crate) upload_done: Cell<bool>,
    pub(crate) head_sent: Cell<bool>,
    pub(crate) bytes_in: Cell<u64>,
    /// Bytes of earlier answers in `out`, which stay when this one fails.
    mark: Cell<usize>,
}

impl<'a, D: Downstream> Carrier<'a, D> {
    pub(crate) fn new(
        down: &'a D,
        route: &'a Route,
        pool: &'a UpstreamPool,
        preferred: Option<usize>,
        start_us: u64,
    ) -> Self {
        let limit_ms = match route.settings.total_ms {
            0 => 0,
            // Never early: the coarse clock may be one tick behind.
            total_ms => clock::coarse_ms() + TICK_MS + total_ms,
        };
        Self {
            down,
            route,
            pool,
            preferred,
            start_us,
            limit_ms,
            upload_done: Cell::new(false),
            head_sent: Cell::new(false),
            bytes_in: Cell::new(0),
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
                own_error(self.down, scratch, record, failure.reason, None, keep);
                keep
            }
        }
    }

    /// Try endpoints until one answers, as far as the request allows it.
    async fn attempts(&self, scratch: &mut Scratch, record: &mut Record) -> Result<bool, Failure> {
        let gateway = &self.down.client().gateway;
        let body = self.prepare(scratch, record);
        let mut tried: SmallVec<[usize; 4]> = SmallVec::new();
        let mut stale_retry = None;
        let mut left = self.pool.pool.settings.retries;
        let mut last = None;
        let facts = &self.down.client().facts;
        let client = SocketAddr::new(record.client.unwrap_or(facts.client.ip()), facts.client.port());
        let choice = Choice { random: &gateway.random, client };
        loop {
            let stats = &gateway.totals.upstream;
            let (index, fresh) = if let Some(index) = stale_retry.take() {
                (index, true)
            } else {
                let chosen = self.pool.choose(self.preferred, &tried, &choice, stats, self.down.deadline()).await;
                // When nobody is left, what went wrong with the last one tells more.
                (chosen.map_err(|reason| last.unwrap_or(reason))?, false)
            };
            if last.is_some() {
                record.retries += 1;
                stats.retries.add_one();
            }
            let endpoint = &self.pool.pool.members[index].endpoint;
            let in_flight = endpoint.enter();
            record.queue_us = clock::process_us() - self.start_us - record.head_us;
            let obtained = self.pool.obtain(index, fresh, &gateway.deadlines, stats).await;
            record.endpoint = Some(Rc::clone(endpoint));
            let failure = match obtained {
                Ok(upstream) => {
                    if !upstream.reused {
                        record.connect_us = clock::process_us() - self.start_us - record.head_us - record.queue_us;
                    }
                    let reused = upstream.reused;
                    match self.exchange(upstream, index, body, scratch, record).await {
                        Ok(keep) => return Ok(keep),
                        // A kept connection may have died unseen: the same endpoint gets a fresh one first.
                        Err(failure) if failure.unanswered && reused && scratch.head.repeatable() => {
                            stale_retry = Some(index);
                            failure
                        }
                        Err(failure) => failure,
                    }
                }
                // Nothing was sent: any request may go elsewhere.
                Err(reason) => Failure { reason, unanswered: true },
            };
            drop(in_flight);
            self.pool.tell_freed();
            let untouched = record.connect_us == 0 && !self.head_sent.get() && is_connect_failure(failure.reason);
            if !(untouched || (failure.unanswered && scratch.head.repeatable())) {
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

    /// Write the request's head, and its body when all of that is here already. Says whether a body has to follow.
    fn prepare(&self, scratch: &mut Scratch, record: &mut Record) -> bool {
        let client = self.down.client();
        let Scratch { head, wire, out, request_id, .. } = scratch;
        wire.clear();
        // `out` may hold earlier answers; the extra field lines are built behind them and taken off again.
        let mark = out.len();
        client.introduction.write(out, head, head.bytes(record.authority), client.trusted, request_id);
        http1::request_head(wire, head, replaced, &[&out[mark..]]);
        out.truncate(mark);
        if head.framing == Framing::None {
            self.upload_done.set(true);
            return false;
        }
        if let Some(length) = self.down.take_whole_body(head.framing, wire) {
            self.bytes_in.set(length);
            self.upload_done.set(true);
            return false;
        }
        true
    }

    async fn exchange(
        &self,
        upstream: upstream::Connection,
        index: usize,
        body: bool,
        scratch: &mut Scratch,
        record: &mut Record,
    ) -> Result<bool, Failure> {
        // Answers to earlier requests on this connection must not wait for this endpoint.
        let idle_ms = self.down.client().gateway.runtime().snapshot.gateway.idle_ms;
        if !scratch.out.is_empty() {
            let written = self.write_out(&mut scratch.out, idle_ms).await;
            // Part of an earlier answer is out then: this request gets none any more.
            self.head_sent.set(written.is_err());
            written?;
        }
        self.mark.set(0);
        let sent = upstream.stream.write_all(&scratch.wire, self.route.settings.between_bytes_ms, self.limit_ms).await;
        if let Err(error) = sent {
            // After half a head nothing may follow. With a body to come, an endpoint that has closed may
            // have answered already: that answer is worth reading.
            let timed_out = error.kind() == io::ErrorKind::TimedOut;
            if timed_out || !body {
                let reason = if timed_out { self.timeout(Reason::BodyTimeout) } else { Reason::UpstreamClosedEarly };
                return Err(Failure { reason, unanswered: true });
            }
        }
        upstream.stream.deadline.set_within(0, self.limit_ms);
        let framing = scratch.head.framing;
        let received = if body {
            let upload = self.upload(&upstream.stream, framing);
            let receive = self.receive(&upstream.stream, index, scratch, record);
            both(upload, receive, || self.upload_done.get()).await?
        } else {
            self.receive(&upstream.stream, index, scratch, record).await?
        };
        match received {
            Received::Whole { keep_upstream, keep_client } => {
                if keep_upstream {
                    self.pool.release(index, upstream);
                } else {
                    drop(upstream);
                    self.pool.tell_freed();
                }
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
                self.join(&upstream.stream, record).await;
                Ok(false)
            }
        }
    }
}

fn is_connect_failure(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectFailed | Reason::ConnectRefused | Reason::ConnectTimeout | Reason::UpstreamTlsFailed
    )
}
