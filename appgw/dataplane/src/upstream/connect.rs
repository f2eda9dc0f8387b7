//! A fresh connection to an endpoint: TCP, and TLS where the pool has it.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weirgate_shared::connect::connect_endpoint;
use weirgate_shared::deadline::Deadline;
use weirgate_shared::endpoint::{Endpoint, OpenConnection};
use weirgate_shared::reason::Reason;

use super::UpstreamPool;
use crate::io::{Io, Replay};
use crate::tls;

/// What was connected, counted for as long as it is open.
pub(super) struct Opened {
    pub(super) io: Io,
    pub(super) deadline: Deadline,
    pub(super) open: OpenConnection,
}

impl UpstreamPool {
    /// Connect to member `index`; failures count against it.
    ///
    /// `open` was counted before: a burst must not see the count of before it. `plainly` = nothing was asked for that
    /// an endpoint may refuse without being broken.
    pub(super) async fn connect(
        &self,
        index: usize,
        tls: Option<&Arc<ClientConfig>>,
        deadline: Deadline,
        open: OpenConnection,
        plainly: bool,
    ) -> Result<Opened, Reason> {
        let endpoint = &self.pool.members[index].endpoint;
        let opened = self.open(endpoint, tls, deadline, open).await;
        match &opened {
            Ok(_) => endpoint.connected(),
            Err(Reason::UpstreamTlsFailed) if !plainly => {}
            Err(reason) => self.pool.connect_failed(index, *reason),
        }
        opened
    }

    async fn open(
        &self,
        endpoint: &Rc<Endpoint>,
        tls: Option<&Arc<ClientConfig>>,
        deadline: Deadline,
        open: OpenConnection,
    ) -> Result<Opened, Reason> {
        let timeout_ms = self.pool.settings.connect_timeout_ms;
        let socket = connect_endpoint(endpoint, timeout_ms, &deadline).await?;
        let io = match tls {
            Some(config) => self.secure(socket, endpoint, config, timeout_ms, &deadline).await?,
            None => Io::Plain(socket),
        };
        Ok(Opened { io, deadline, open })
    }

    async fn secure(
        &self,
        socket: TcpStream,
        endpoint: &Endpoint,
        config: &Arc<ClientConfig>,
        timeout_ms: u64,
        deadline: &Deadline,
    ) -> Result<Io, Reason> {
        let settings = self.pool.settings.tls.as_ref().ok_or(Reason::UpstreamTlsFailed)?;
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
}
