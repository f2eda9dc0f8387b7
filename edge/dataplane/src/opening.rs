//! What a connection says before its bytes are relayed: a PROXY header, and a TLS client hello.
//!
//! The header is taken from the socket, to its last byte and no further. The client hello is only
//! looked at (`MSG_PEEK`): it belongs to whoever terminates TLS, be it an endpoint or a gateway.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::task::Poll;

use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use weirgate_shared::cidr::canonical;
use weirgate_shared::client_hello::{ClientHello, HelloReader, MAX_BYTES, Progress};
use weirgate_shared::deadline::Deadline;
use weirgate_shared::net::{peek, set_receive_low_water};
use weirgate_shared::proxy_header::{self, Parsed, V1_MAX_BYTES};
use weirgate_shared::reason::Reason;
use weirgate_shared::snapshot::Protocol;

use crate::config::Listener;

/// TLS alerts (RFC 8446 §6).
const MISSING_EXTENSION: u8 = 109;
const UNRECOGNIZED_NAME: u8 = 112;
const FATAL: u8 = 2;
/// The record type of an alert.
const ALERT: u8 = 21;
/// Bytes read at once.
const CHUNK_BYTES: usize = 4096;
/// How long a refused client may take to read its alert, and how much more it may send meanwhile.
const LINGER_MS: u64 = 1_000;
const LINGER_BYTES: usize = 64 * 1024;

/// What has been learnt of a connection.
pub(crate) struct Opening {
    /// The peer, or whom it named.
    pub(crate) client: SocketAddr,
    /// As a PROXY header told it.
    pub(crate) destination: Option<SocketAddr>,
    /// A PROXY header has been read.
    pub(crate) introduced: bool,
    /// `tls` only.
    pub(crate) hello: Option<ClientHello>,
}

impl Opening {
    pub(crate) fn of(peer: SocketAddr) -> Self {
        Self { client: peer, destination: None, introduced: false, hello: None }
    }

    pub(crate) fn server_name(&self) -> Option<&str> {
        self.hello.as_ref()?.server_name.as_deref()
    }

    /// The application protocol, if the client offers one only: of several the server will choose.
    pub(crate) fn only_protocol(&self) -> Option<&[u8]> {
        match self.hello.as_ref()?.alpn.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Read what `listener` has to know; all of it within its `hello_timeout`.
    pub(crate) async fn read(
        &mut self,
        listener: &Listener,
        stream: &TcpStream,
        deadline: &Deadline,
    ) -> Result<(), Reason> {
        deadline.set(listener.settings.hello_timeout_ms);
        if listener.accept_proxy_from.contains(self.client.ip()) {
            self.read_proxy_header(stream, deadline).await.map_err(|_| Reason::BadProxyHeader)?;
            // The peer was judged when it was accepted; whom it speaks for must pass as well.
            if !listener.admits(self.client.ip()) {
                return Err(Reason::Denied);
            }
        }
        if listener.settings.protocol == Protocol::Tls {
            self.hello = Some(peek_hello(stream, deadline).await?);
        }
        deadline.clear();
        Ok(())
    }

    /// Take the header, and not a byte more.
    async fn read_proxy_header(&mut self, stream: &TcpStream, deadline: &Deadline) -> io::Result<()> {
        let mut seen = [0; V1_MAX_BYTES];
        let mut have = 0;
        let parsed = loop {
            have = wait_for_more(stream, have, deadline, || peek(stream.as_fd(), &mut seen)).await?;
            match (proxy_header::parse(&seen[..have]), proxy_header::v2_length(&seen[..have])) {
                // A long one is taken as it comes: it could be larger than the window.
                (Parsed::Incomplete, Some(length)) => {
                    break proxy_header::parse(&take(stream, length, deadline).await?);
                }
                (Parsed::Incomplete, None) => {}
                (Parsed::Complete { length, addresses }, _) => {
                    take(stream, length, deadline).await?;
                    break Parsed::Complete { length, addresses };
                }
                (Parsed::Invalid, _) => break Parsed::Invalid,
            }
        };
        let Parsed::Complete { addresses, .. } = parsed else { return Err(io::ErrorKind::InvalidData.into()) };
        self.introduced = true;
        if let Some((client, destination)) = addresses {
            let plain = |address: SocketAddr| SocketAddr::new(canonical(address.ip()), address.port());
            (self.client, self.destination) = (plain(client), Some(plain(destination)));
        }
        Ok(())
    }
}

thread_local! {
    static LOOK: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; MAX_BYTES]);
}

/// The client hello, which stays in the socket.
async fn peek_hello(stream: &TcpStream, deadline: &Deadline) -> Result<ClientHello, Reason> {
    let mut reader = HelloReader::default();
    let (mut have, mut low_water) = (0, 1);
    let verdict = loop {
        let mut verdict = Progress::Incomplete(0);
        let seen = wait_for_more(stream, have, deadline, || {
            LOOK.with_borrow_mut(|buffer| {
                let count = peek(stream.as_fd(), buffer)?;
                if count > have {
                    verdict = reader.read(&buffer[..count]);
                }
                Ok(count)
            })
        });
        match seen.await {
            Ok(count) => have = count,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => break Err(Reason::HelloTimeout),
            Err(_) => break Err(Reason::ClientGone),
        }
        match verdict {
            Progress::Complete(hello) => break Ok(hello),
            Progress::Invalid(_) => break Err(Reason::BadClientHello),
            // Nothing is to be done before so many bytes are there, however slowly they come.
            Progress::Incomplete(total) => {
                low_water = total;
                set_receive_low_water(stream.as_fd(), low_water);
            }
        }
    };
    if low_water != 1 {
        set_receive_low_water(stream.as_fd(), 1);
    }
    verdict
}

/// Call `look` whenever the socket becomes readable, until it tells more than `have` bytes.
async fn wait_for_more(
    stream: &TcpStream,
    have: usize,
    deadline: &Deadline,
    mut look: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    loop {
        let ready = within(deadline, stream.ready(Interest::READABLE)).await?;
        let looked = stream.try_io(Interest::READABLE, || match look()? {
            // No more than before: the next event is to be waited for.
            count if count <= have => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        });
        match looked {
            // After the end of the stream nothing more can come.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Exactly the next `count` bytes.
async fn take(stream: &TcpStream, count: usize, deadline: &Deadline) -> io::Result<Vec<u8>> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let have = taken.len();
        let part = read_some(stream, &mut taken, count.min(have + CHUNK_BYTES), deadline).await?;
        if part == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(taken)
}

/// Append what is there, until `bytes` holds `limit`. 0 = the end of the stream.
async fn read_some(stream: &TcpStream, bytes: &mut Vec<u8>, limit: usize, deadline: &Deadline) -> io::Result<usize> {
    let have = bytes.len();
    bytes.resize(limit, 0);
    let read = loop {
        match stream.try_read(&mut bytes[have..]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Err(error) = within(deadline, stream.readable()).await {
                    break Err(error);
                }
            }
            read => break read,
        }
    };
    bytes.truncate(have + read.as_ref().map_or(0, |&count| count));
    read
}

/// `TimedOut` once the deadline has passed.
async fn within<T>(deadline: &Deadline, event: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut event = pin!(event);
    poll_fn(|context| match event.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending => deadline.poll_expired(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
    })
    .await
}

/// Tell a client that there is nothing for the name it asked for, so that it can tell its user, and close.
///
/// RFC 6066 §3: `unrecognized_name`. RFC 8446 §9.2: `missing_extension` to a client that gave no name.
pub(crate) async fn refuse_name(stream: &mut TcpStream, hello: &ClientHello, deadline: &Deadline) {
    let alert = if hello.server_name.is_some() { UNRECOGNIZED_NAME } else { MISSING_EXTENSION };
    let minor = hello.legacy_version.clamp(0x0301, 0x0303).to_be_bytes()[1];
    deadline.set(LINGER_MS);
    let sent = stream.try_write(&[ALERT, 3, minor, 0, 2, FATAL, alert]);
    if sent.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    // Its ClientHello is still unread: closing now would reset, and take the alert away from it.
    let (mut ignored, mut total) = (Vec::new(), 0);
    while total < LINGER_BYTES {
        ignored.clear();
        match read_some(stream, &mut ignored, CHUNK_BYTES, deadline).await {
            Ok(count) if count > 0 => total += count,
            _ => return,
        }
    }
}
