//! The bytes of an exchange: the request's body up, the response's head and body down, both at once.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use weirgate_shared::clock;
use weirgate_shared::deadline::{Deadline, TICK_MS};
use weirgate_shared::reason::Reason;
use weirgate_shared::relay::{Bounds, End, Exact, Stream as _, relay, splice_exact};

use crate::carrier::{Carrier, Failure};
use crate::downstream::{Downstream, Piece};
use crate::exchange::Scratch;
use crate::filters::ResponseContext;
use crate::grpc;
use crate::http1::{Departure, HeadScan, has_body};
use crate::insight::Record;
use crate::io::Stream;
use crate::message::{Framing, HeaderId, Headers, RequestHead, ResponseHead, Version};
use crate::upstream::Upstream;
use crate::websocket;

/// Interim answers that an endpoint may send before its final one.
const INTERIM_LIMIT: usize = 16;
/// Bytes of an answer that are collected before they are written.
const OUT_BYTES: usize = 64 * 1024;
/// Bytes of a request's body that are kept until the endpoint has begun to answer.
const KEPT_BYTES: usize = 64 * 1024;
/// How long an upgraded connection may be silent after one side has ended: not every application takes notice.
const HALF_CLOSED_MS: u64 = 30_000;
/// A body of this size is moved by splice(2) where both sides are plain.
const BULK_BYTES: u64 = 64 * 1024;

/// How the client's side of a response ends.
pub(crate) enum Received {
    /// All of it was written; what is still in `out` has to be flushed.
    Whole { keep_upstream: bool, keep_client: bool },
    /// 101: both sides now speak another protocol.
    Upgraded,
}

impl<D: Downstream> Carrier<'_, D> {
    pub(crate) fn timeout(&self, reason: Reason) -> Reason {
        if self.down.client().gateway.is_closing() {
            Reason::Draining
        } else if self.limit_ms != 0 && self.limit_ms <= clock::coarse_ms() {
            Reason::TotalTimeout
        } else {
            reason
        }
    }

    /// The endpoint took too long: it may be its connection that hangs, unless it was the client's own limit.
    fn gave_up(&self, upstream: &impl Upstream, reason: Reason) -> Reason {
        let told = self.timeout(reason);
        if told == reason {
            upstream.distrust();
        }
        told
    }

    /// The request's body, written anew towards the endpoint.
    pub(crate) async fn upload(&self, upstream: &impl Upstream, framing: Framing) -> Result<(), Failure> {
        let settings = &self.route.settings;
        let between_bytes_ms = self.between_bytes_ms.get();
        self.upload_begun.set(true);
        let mut body = self.down.body(self.in_framing.get());
        let mut piece = Vec::new();
        loop {
            piece.clear();
            let mut event = Piece::Data;
            // All that is here in one write, as far as that is sensible.
            while event == Piece::Data && piece.len() < OUT_BYTES {
                let mut bridged = Ok(());
                event = self.down.next_piece(&mut body, |data| {
                    self.bytes_in.set(self.bytes_in.get() + data.len() as u64);
                    bridged = self.write_up(upstream, &mut piece, data, framing);
                })?;
                bridged?;
            }
            if settings.body_bytes != 0 && self.bytes_in.get() > settings.body_bytes {
                return Err(Reason::BodyTooLarge.into());
            }
            if event == Piece::End {
                if let Some(bridge) = &self.bridge {
                    bridge.borrow().request_end()?;
                }
                let trailers = self.down.trailers(&body);
                if trailers.is_some_and(|trailers| !trailers.is_empty()) {
                    self.kept.take();
                }
                upstream.end(&mut piece, trailers, framing);
            }
            upstream.send(&mut piece, between_bytes_ms, self.limit_ms).await.map_err(|error| {
                let reason = if error.kind() == io::ErrorKind::TimedOut {
                    self.timeout(Reason::BodyTimeout)
                } else {
                    Reason::UpstreamClosedEarly
                };
                Failure::of(upstream, reason, true)
            })?;
            if event == Piece::End {
                self.upload_done.set(true);
                upstream.deadline().set_within(self.response_head_ms, self.limit_ms);
                return Ok(());
            }
            if event == Piece::Starved {
                self.down.deadline().set_within(between_bytes_ms, self.limit_ms);
                match self.down.more_body(&mut body).await {
                    Ok(true) => {}
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        return Err(self.timeout(Reason::RequestTimeout).into());
                    }
                    Ok(false) | Err(_) => return Err(Reason::ClientGone.into()),
                }
            }
        }
    }

    /// Write bytes of the request's body for the endpoint.
    fn write_up(
        &self,
        upstream: &impl Upstream,
        out: &mut Vec<u8>,
        data: &[u8],
        framing: Framing,
    ) -> Result<(), Reason> {
        let mut plain = Vec::new();
        let data = match &self.bridge {
            Some(bridge) => {
                bridge.borrow_mut().request_data(data, &mut plain)?;
                &plain
            }
            None => data,
        };
        if upstream.may_refuse() {
            let mut kept = self.kept.borrow_mut();
            match &mut *kept {
                Some(bytes) if bytes.len() + data.len() <= KEPT_BYTES => bytes.extend_from_slice(data),
                _ => *kept = None,
            }
        }
        upstream.data(out, data, framing);
        Ok(())
    }

    /// Write bytes of the answer's body for the client.
    fn write_down(&self, out: &mut Vec<u8>, data: &[u8]) {
        let framing = self.out_framing.get();
        let Some(bridge) = &self.bridge else { return self.down.data(out, data, framing) };
        let mut bridged = Vec::new();
        bridge.borrow_mut().response_data(data, &mut bridged);
        self.down.data(out, &bridged, framing);
    }

    /// End the answer.
    pub(crate) fn end_answer(&self, out: &mut Vec<u8>, trailers: Option<&Headers>) {
        let framing = self.out_framing.get();
        let Some(bridge) = &self.bridge else { return self.down.end(out, trailers, framing) };
        let mut last = Vec::new();
        bridge.borrow_mut().response_end(trailers.unwrap_or(&Headers::default()), &mut last);
        self.down.data(out, &last, framing);
        self.down.end(out, None, framing);
    }

    /// The response: interim ones, the head, the body, written anew towards the client.
    pub(crate) async fn receive<U: Upstream>(
        &self,
        upstream: &U,
        index: usize,
        scratch: &mut Scratch,
        record: &mut Record,
    ) -> Result<Received, Failure> {
        let to_head = scratch.head.method() == b"HEAD";
        // While the request is still going out, its own progress is what is timed.
        if self.upload_done.get() {
            upstream.deadline().set_within(self.response_head_ms, self.limit_ms);
        }
        let mut interims = 0;
        loop {
            self.read_head(upstream, to_head, &mut scratch.response, record).await?;
            let status = scratch.response.status;
            if status >= 200 || (status == 101 && scratch.head.upgrade.is_some()) {
                break;
            }
            interims += 1;
            if interims > INTERIM_LIMIT || status == 101 {
                return Err(Reason::UpstreamBadResponse.into());
            }
            if scratch.head.version != Version::Http10 {
                self.down.interim(&mut scratch.out, &scratch.response);
                record.bytes_out += scratch.out.len() as u64;
                self.write_out(&mut scratch.out, self.between_bytes_ms.get()).await?;
            }
        }
        self.kept.take();
        record.status = scratch.response.status;
        let mut context =
            ResponseContext { head: &mut scratch.response, chosen: Some(index), preferred: self.preferred };
        for filter in &self.route.filters {
            filter.response(&mut context);
        }
        let status = scratch.response.status;
        if status == 101 {
            record.status = D::UPGRADED;
            websocket::complete(&scratch.head, &mut scratch.response, self.own_key.get(), U::PROVES_UPGRADE)?;
            let departure = Departure { framing: Framing::None, keep_alive: true, http10: false };
            self.down.head(&mut scratch.out, &scratch.response, departure, false);
            record.bytes_out += scratch.out.len() as u64;
            self.head_sent.set(true);
            self.write_out(&mut scratch.out, self.between_bytes_ms.get()).await?;
            return Ok(Received::Upgraded);
        }
        if scratch.head.upgrade.is_some() && D::UPGRADED / 100 == status / 100 {
            // The client would take it for the upgrade, and the body for what comes over it.
            return Err(Reason::UpstreamNoUpgrade.into());
        }
        let has_body = has_body(to_head, status);
        self.look_at(&mut scratch.response, record);
        let departure = self.departure(&scratch.head, &scratch.response, has_body);
        self.out_framing.set(departure.framing);
        let mut body = upstream.body(if has_body { scratch.response.framing } else { Framing::None });
        let ends = upstream.is_whole(&body);
        self.down.head(&mut scratch.out, &scratch.response, departure, ends);
        record.head_bytes = scratch.out.len() as u64;
        if ends {
            self.head_sent.set(true);
        } else {
            self.relay_body(upstream, &mut body, &mut scratch.out, record).await?;
        }
        // A 204 with framing of a body may be followed by one: whose it would be is not known.
        let odd = status == 204 && !matches!(scratch.response.framing, Framing::None | Framing::Length(0));
        let clean = upstream.is_clean() && self.upload_done.get() && !odd;
        Ok(Received::Whole { keep_upstream: scratch.response.keep_alive && clean, keep_client: departure.keep_alive })
    }

    /// What the head of the answer says about what follows.
    fn look_at(&self, head: &mut ResponseHead, record: &mut Record) {
        if record.grpc.is_some() {
            record.grpc_status = grpc::status_in(&head.headers);
        } else if head.headers.get(HeaderId::ContentType).is_some_and(is_event_stream) {
            self.between_bytes_ms.set(self.route.settings.upgrade_idle_ms);
        }
        if let Some(bridge) = &self.bridge {
            bridge.borrow().response_head(head);
            if head.framing != Framing::None {
                head.framing = Framing::Chunked;
            }
        }
    }

    /// How the response leaves: a body of unknown length is chunked, or for HTTP/1.0 ends with the connection.
    fn departure(&self, request: &RequestHead, response: &ResponseHead, has_body: bool) -> Departure {
        let mut keep_alive = request.keep_alive && self.upload_done.get() && self.down.client().goes_on();
        let framing = match response.framing {
            _ if response.status == 204 => Framing::None,
            Framing::Length(length) => Framing::Length(length),
            // An answer that could have a body, and has none.
            Framing::None if has_body => Framing::Length(0),
            Framing::Chunked | Framing::UntilClose if request.version != Version::Http10 => Framing::Chunked,
            Framing::Chunked | Framing::UntilClose if has_body => {
                keep_alive = false;
                Framing::UntilClose
            }
            _ => Framing::None,
        };
        Departure { framing, keep_alive, http10: request.version == Version::Http10 }
    }

    async fn read_head(
        &self,
        upstream: &impl Upstream,
        to_head: bool,
        head: &mut ResponseHead,
        record: &mut Record,
    ) -> Result<(), Failure> {
        let mut scan = HeadScan::default();
        loop {
            if upstream.next_head(&mut scan, to_head, head)? {
                if record.first_byte_us == 0 {
                    record.first_byte_us = clock::process_us() - self.start_us;
                }
                return Ok(());
            }
            let unanswered = record.first_byte_us == 0;
            let failed = |reason| Failure::of(upstream, reason, unanswered);
            match self.read(upstream).await {
                Ok(0) => return Err(failed(Reason::UpstreamClosedEarly)),
                Ok(_) if unanswered => record.first_byte_us = clock::process_us() - self.start_us,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    let stalled = upstream.has_unsent();
                    let reason = if stalled { Reason::BodyTimeout } else { Reason::ResponseTimeout };
                    return Err(self.gave_up(upstream, reason).into());
                }
                Err(_) if self.down.is_gone() => return Err(Reason::ClientGone.into()),
                Err(_) => {
                    let reason = upstream.verdict().unwrap_or(Reason::UpstreamClosedEarly);
                    return Err(failed(reason));
                }
            }
        }
    }

    /// Read from the endpoint for as long as there is a client. While the request still goes out, that
    /// side notices.
    async fn read(&self, upstream: &impl Upstream) -> io::Result<usize> {
        // Asked anew each time: the request may have gone out since the last one.
        let gone = |context: &mut Context<'_>| {
            if self.upload_done.get() { self.down.poll_gone(context) } else { Poll::Pending }
        };
        upstream.more(gone).await
    }

    async fn relay_body<U: Upstream>(
        &self,
        upstream: &U,
        body: &mut U::Body,
        out: &mut Vec<u8>,
        record: &mut Record,
    ) -> Result<(), Failure> {
        loop {
            let piece = upstream.next_piece(body, |data| self.write_down(out, data))?;
            if piece == Piece::End {
                let trailers = upstream.trailers(body);
                if record.grpc.is_some() && record.grpc_status.is_none() {
                    record.grpc_status = trailers.and_then(grpc::status_in);
                }
                self.end_answer(out, trailers);
                self.head_sent.set(true);
                return Ok(());
            }
            let starved = piece == Piece::Starved;
            if !starved && out.len() < OUT_BYTES {
                continue;
            }
            if let Some(bridge) = &self.bridge {
                let mut padded = Vec::new();
                bridge.borrow_mut().response_pause(&mut padded);
                self.down.data(out, &padded, self.out_framing.get());
            }
            self.head_sent.set(true);
            record.bytes_out += out.len() as u64;
            self.write_out(out, self.between_bytes_ms.get()).await?;
            if !starved {
                continue;
            }
            if let Some((stream, left)) = upstream.bulk(body)
                && left >= BULK_BYTES
                && self.upload_done.get()
                && self.bridge.is_none()
                && let Some(moved) = Box::pin(self.splice(stream, left)).await?
            {
                record.bytes_out += moved;
                upstream.taken(body);
                continue;
            }
            upstream.deadline().set_within(self.between_bytes_ms.get(), self.limit_ms);
            match self.read(upstream).await {
                Ok(0) if upstream.ends_with_connection(body) => {
                    self.end_answer(out, None);
                    return Ok(());
                }
                Ok(0) => return Err(Reason::UpstreamClosedEarly.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(self.gave_up(upstream, Reason::BodyTimeout).into());
                }
                Err(_) if self.down.is_gone() => return Err(Reason::ClientGone.into()),
                Err(_) => return Err(upstream.verdict().unwrap_or(Reason::UpstreamClosedEarly).into()),
            }
        }
    }

    /// Move the rest of a body in the kernel; not while an upload still uses the two streams. `None` = one side is under TLS.
    #[allow(clippy::await_holding_refcell_ref)] // nobody else touches the two streams meanwhile
    async fn splice(&self, upstream: &Stream, left: u64) -> Result<Option<u64>, Failure> {
        let Some(client) = self.down.stream() else { return Ok(None) };
        let (from, to) = (upstream.io.borrow(), client.io.borrow());
        let (Some(from), Some(to)) = (from.plain(), to.plain()) else { return Ok(None) };
        let deadline = &upstream.deadline;
        match splice_exact(from, to, left, || deadline.set_within(self.between_bytes_ms.get(), self.limit_ms), deadline)
            .await
        {
            Exact::Moved => Ok(Some(left)),
            Exact::NoPipe => Ok(None),
            Exact::SourceEnded => Err(Reason::UpstreamClosedEarly.into()),
            Exact::SinkFailed => Err(Reason::ClientGone.into()),
            Exact::TimedOut => Err(self.timeout(Reason::BodyTimeout).into()),
        }
    }

    /// Write what is collected for the client, all of it.
    pub(crate) async fn write_out(&self, out: &mut Vec<u8>, stall_ms: u64) -> Result<(), Failure> {
        self.down.send(out, stall_ms, self.limit_ms).await.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => self.timeout(Reason::ClientGone).into(),
            _ => Reason::ClientGone.into(),
        })
    }

    /// After 101: bytes both ways, whatever they mean, until both sides have finished.
    pub(crate) async fn join(&self, upstream: &impl Upstream, record: &mut Record) {
        let (Some((mut downstream, forth)), Some((mut endpoint, back))) = (self.down.pipe(), upstream.pipe()) else {
            return;
        };
        let gateway = &self.down.client().gateway;
        let _open = gateway.totals.upgraded();
        let settings = &self.route.settings;
        let limit_ms = match settings.upgrade_total_ms {
            0 => 0,
            // Never early: the coarse clock may be one tick behind.
            total_ms => clock::coarse_ms() + TICK_MS + total_ms,
        };
        let deadline: &Deadline = self.down.deadline();
        let bounds = Bounds { idle_ms: settings.upgrade_idle_ms, half_closed_ms: HALF_CLOSED_MS, limit_ms };
        let outcome = relay(&mut downstream, &mut endpoint, (forth, back), deadline, bounds).await;
        self.bytes_in.set(outcome.forth);
        record.bytes_out += outcome.back;
        if matches!(outcome.end, End::FirstReset | End::SecondReset) {
            self.down.spoil();
        }
        record.reason = match outcome.end {
            End::Finished => None,
            End::Idle if gateway.is_closing() => Some(Reason::Draining),
            End::Idle if limit_ms != 0 && limit_ms <= clock::coarse_ms() => Some(Reason::TotalTimeout),
            End::Idle => Some(Reason::IdleTimeout),
            End::FirstReset => Some(Reason::ClientReset),
            End::SecondReset => Some(Reason::UpstreamReset),
        };
    }
}

/// Events come when there are some (HTML, "Server-sent events").
fn is_event_stream(value: &[u8]) -> bool {
    const KIND: &[u8] = b"text/event-stream";
    value.get(..KIND.len()).is_some_and(|start| start.eq_ignore_ascii_case(KIND))
}

/// Run the upload beside the response. The response decides; an upload that fails ends both, but for
/// an endpoint that has stopped reading because it has already begun to answer.
pub(crate) async fn both(
    upload: impl Future<Output = Result<(), Failure>>,
    receive: impl Future<Output = Result<Received, Failure>>,
    uploaded: impl Fn() -> bool,
) -> Result<Received, Failure> {
    let (mut upload, mut receive) = (pin!(upload), pin!(receive));
    let mut sending = true;
    poll_fn(|context| {
        if sending && let Poll::Ready(result) = upload.as_mut().poll(context) {
            sending = false;
            if let Err(failure) = result
                && failure.reason != Reason::UpstreamClosedEarly
                && !uploaded()
            {
                return Poll::Ready(Err(failure));
            }
        }
        receive.as_mut().poll(context)
    })
    .await
}
