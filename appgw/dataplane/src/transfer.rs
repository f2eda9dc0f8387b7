//! The bytes of an exchange: the request's body up, the response's head and body down, both at once.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;

use weirgate_shared::clock;
use weirgate_shared::reason::Reason;
use weirgate_shared::relay::{End, Exact, Stream as _, relay, splice_exact};

use crate::carrier::{Carrier, Failure};
use crate::downstream::{Downstream, Piece};
use crate::exchange::Scratch;
use crate::filters::ResponseContext;
use crate::http1::{self, Decoded, Decoder, Departure, HeadScan, has_body};
use crate::insight::Record;
use crate::io::Stream;
use crate::message::{Framing, RequestHead, ResponseHead, Version};

/// Interim answers that an endpoint may send before its final one.
const INTERIM_LIMIT: usize = 16;
/// Bytes of an answer that are collected before they are written.
const OUT_BYTES: usize = 64 * 1024;
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

    /// The request's body, written anew towards the endpoint.
    pub(crate) async fn upload(&self, upstream: &Stream, framing: Framing) -> Result<(), Failure> {
        let settings = &self.route.settings;
        let mut body = self.down.body(framing);
        let mut piece = Vec::new();
        loop {
            piece.clear();
            let mut event = Piece::Data;
            // All that is here in one write, as far as that is sensible.
            while event == Piece::Data && piece.len() < OUT_BYTES {
                event = self.down.next_piece(&mut body, |data| {
                    self.bytes_in.set(self.bytes_in.get() + data.len() as u64);
                    if framing == Framing::Chunked {
                        http1::chunk(&mut piece, data);
                    } else {
                        piece.extend_from_slice(data);
                    }
                })?;
            }
            if settings.body_bytes != 0 && self.bytes_in.get() > settings.body_bytes {
                return Err(Reason::BodyTooLarge.into());
            }
            if event == Piece::End
                && let Some(trailers) = self.down.trailers(&body)
                && framing == Framing::Chunked
            {
                http1::last_chunk(&mut piece, trailers);
            }
            if !piece.is_empty() {
                upstream.deadline.set_within(settings.between_bytes_ms, self.limit_ms);
                upstream.write_all(&piece, settings.between_bytes_ms, self.limit_ms).await.map_err(|error| {
                    let reason = if error.kind() == io::ErrorKind::TimedOut {
                        self.timeout(Reason::BodyTimeout)
                    } else {
                        Reason::UpstreamClosedEarly
                    };
                    Failure { reason, unanswered: true }
                })?;
            }
            if event == Piece::End {
                self.upload_done.set(true);
                upstream.deadline.set_within(settings.response_head_ms, self.limit_ms);
                return Ok(());
            }
            if event == Piece::Starved {
                self.down.deadline().set_within(settings.between_bytes_ms, self.limit_ms);
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

    /// The response: interim ones, the head, the body, written anew towards the client.
    pub(crate) async fn receive(
        &self,
        upstream: &Stream,
        index: usize,
        scratch: &mut Scratch,
        record: &mut Record,
    ) -> Result<Received, Failure> {
        let settings = &self.route.settings;
        let to_head = scratch.head.method() == b"HEAD";
        // While the request is still going out, its own progress is what is timed.
        if self.upload_done.get() {
            upstream.deadline.set_within(settings.response_head_ms, self.limit_ms);
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
                self.write_out(&mut scratch.out, settings.between_bytes_ms).await?;
            }
        }
        record.status = scratch.response.status;
        let mut context =
            ResponseContext { head: &mut scratch.response, chosen: Some(index), preferred: self.preferred };
        for filter in &self.route.filters {
            filter.response(&mut context);
        }
        let status = scratch.response.status;
        if status == 101 {
            let departure = Departure { framing: Framing::None, keep_alive: true, http10: false };
            self.down.head(&mut scratch.out, &scratch.response, departure, false);
            record.bytes_out += scratch.out.len() as u64;
            self.head_sent.set(true);
            self.write_out(&mut scratch.out, settings.between_bytes_ms).await?;
            return Ok(Received::Upgraded);
        }
        let has_body = has_body(to_head, status);
        let departure = self.departure(&scratch.head, &scratch.response, has_body);
        let mut decoder = Decoder::new(if has_body { scratch.response.framing } else { Framing::None });
        let ends = matches!(decoder, Decoder::Done);
        self.down.head(&mut scratch.out, &scratch.response, departure, ends);
        record.head_bytes = scratch.out.len() as u64;
        if ends {
            self.head_sent.set(true);
        } else {
            self.relay_body(upstream, &mut decoder, departure.framing, &mut scratch.out, record).await?;
        }
        // A 204 with framing of a body may be followed by one: whose it would be is not known.
        let odd = status == 204 && !matches!(scratch.response.framing, Framing::None | Framing::Length(0));
        let clean = upstream.input.borrow().is_empty() && self.upload_done.get() && !odd;
        Ok(Received::Whole { keep_upstream: scratch.response.keep_alive && clean, keep_client: departure.keep_alive })
    }

    /// How the response leaves: a body of unknown length is chunked, or for HTTP/1.0 ends with the connection.
    fn departure(&self, request: &RequestHead, response: &ResponseHead, has_body: bool) -> Departure {
        let mut keep_alive = request.keep_alive && self.upload_done.get() && self.down.client().goes_on();
        let framing = match response.framing {
            _ if response.status == 204 => Framing::None,
            Framing::Length(length) => Framing::Length(length),
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
        upstream: &Stream,
        to_head: bool,
        head: &mut ResponseHead,
        record: &mut Record,
    ) -> Result<(), Failure> {
        let mut scan = HeadScan::default();
        loop {
            {
                let mut input = upstream.input.borrow_mut();
                if !input.is_empty()
                    && let Some(length) = http1::parse_response(input.bytes(), &mut scan, to_head, head)?
                {
                    input.consume(length);
                    return Ok(());
                }
            }
            let unanswered = record.first_byte_us == 0;
            let failed = |reason| Failure { reason, unanswered };
            match self.read(upstream).await {
                Ok(0) => return Err(failed(Reason::UpstreamClosedEarly)),
                Ok(_) if unanswered => record.first_byte_us = clock::process_us() - self.start_us,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(self.timeout(Reason::ResponseTimeout).into());
                }
                Err(_) if self.down.is_gone() => return Err(Reason::ClientGone.into()),
                Err(_) => return Err(failed(Reason::UpstreamClosedEarly)),
            }
        }
    }

    /// Read from the endpoint for as long as there is a client. While the request still goes out, that
    /// side notices.
    async fn read(&self, upstream: &Stream) -> io::Result<usize> {
        if self.upload_done.get() {
            upstream.read_while(|context| self.down.poll_gone(context)).await
        } else {
            upstream.read().await
        }
    }

    async fn relay_body(
        &self,
        upstream: &Stream,
        decoder: &mut Decoder,
        framing: Framing,
        out: &mut Vec<u8>,
        record: &mut Record,
    ) -> Result<(), Failure> {
        let settings = &self.route.settings;
        loop {
            let mut starved = false;
            {
                let mut input = upstream.input.borrow_mut();
                match decoder.next(input.bytes()).map_err(|_| Reason::UpstreamBadResponse)? {
                    Decoded::Data { skip, length } => {
                        self.down.data(out, &input.bytes()[skip..skip + length], framing);
                        input.consume(skip + length);
                    }
                    Decoded::End { skip } => {
                        input.consume(skip);
                        self.down.end(out, decoder.trailers(), framing);
                        self.head_sent.set(true);
                        return Ok(());
                    }
                    Decoded::More { skip } => {
                        input.consume(skip);
                        starved = true;
                    }
                }
            }
            if !starved && out.len() < OUT_BYTES {
                continue;
            }
            self.head_sent.set(true);
            record.bytes_out += out.len() as u64;
            self.write_out(out, settings.between_bytes_ms).await?;
            if !starved {
                continue;
            }
            if let Decoder::Length(left) = decoder
                && *left >= BULK_BYTES
                && self.upload_done.get()
                && let Some(moved) = self.splice(upstream, *left).await?
            {
                record.bytes_out += moved;
                *decoder = Decoder::Done;
                continue;
            }
            upstream.deadline.set_within(settings.between_bytes_ms, self.limit_ms);
            match self.read(upstream).await {
                Ok(0) if decoder.ends_with_connection() => {
                    self.down.end(out, None, framing);
                    return Ok(());
                }
                Ok(0) => return Err(Reason::UpstreamClosedEarly.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(self.timeout(Reason::BodyTimeout).into());
                }
                Err(_) if self.down.is_gone() => return Err(Reason::ClientGone.into()),
                Err(_) => return Err(Reason::UpstreamClosedEarly.into()),
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
        match splice_exact(
            from,
            to,
            left,
            || deadline.set_within(self.route.settings.between_bytes_ms, self.limit_ms),
            deadline,
        )
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
    #[allow(clippy::await_holding_refcell_ref)] // from here on nobody else touches the two streams
    pub(crate) async fn join(&self, upstream: &Stream, record: &mut Record) {
        let Some(client) = self.down.stream() else { return };
        self.down.client().gateway.totals.upgrades.add_one();
        let rest = |stream: &Stream| {
            let bytes = stream.input.borrow().bytes().to_vec();
            stream.input.borrow_mut().consume(bytes.len());
            bytes
        };
        let (forth, back) = (rest(client), rest(upstream));
        let mut downstream = client.io.borrow_mut();
        let mut endpoint = upstream.io.borrow_mut();
        let idle_ms = self.route.settings.upgrade_idle_ms;
        let outcome = relay(&mut *downstream, &mut *endpoint, forth, back, &client.deadline, idle_ms).await;
        self.bytes_in.set(outcome.forth);
        record.bytes_out += outcome.back;
        if matches!(outcome.end, End::FirstReset | End::SecondReset) {
            self.down.spoil();
        }
        record.reason = match outcome.end {
            End::Finished => None,
            End::Idle => {
                Some(if self.down.client().gateway.is_closing() { Reason::Draining } else { Reason::IdleTimeout })
            }
            End::FirstReset => Some(Reason::ClientReset),
            End::SecondReset => Some(Reason::UpstreamReset),
        };
    }
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
