//! What all requests of a client's connection share, whatever the HTTP version.

use std::rc::Rc;

use crate::config::Listener;
use crate::forwarded::Introduction;
use crate::insight::ConnectionFacts;
use crate::plane::{Gateway, Live};

/// A client's connection, for its requests.
pub(crate) struct Client {
    pub(crate) gateway: Rc<Gateway>,
    pub(crate) facts: ConnectionFacts,
    pub(crate) introduction: Introduction,
    pub(crate) listener: Rc<Listener>,
    pub(crate) listener_key: u64,
    /// The peer is a proxy whose word counts.
    pub(crate) trusted: bool,
    /// Counted for as long as it is open.
    pub(crate) _live: Live,
}

impl Client {
    /// Whether its listener is still configured.
    pub(crate) fn is_served(&self) -> bool {
        self.gateway.serves(self.listener_key)
    }

    /// Whether the client may send another request after the current one.
    pub(crate) fn goes_on(&self) -> bool {
        !self.gateway.is_draining() && self.is_served()
    }
}
