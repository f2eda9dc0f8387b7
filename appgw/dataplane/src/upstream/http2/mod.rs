//! HTTP/2 to an endpoint: connections that many requests share.

mod connection;
mod exchange;
mod share;

use std::rc::Rc;

use weirgate_shared::reason::Reason;

use super::UpstreamPool;
use crate::plane::Gateway;

pub(crate) use exchange::Exchange;
pub(super) use share::Shares;

/// A stream of a shared connection to member `index`: of one that has room, or of a new one. `None` = the endpoint,
/// which may choose, has chosen HTTP/1.1.
pub(super) async fn obtain(
    pool: &Rc<UpstreamPool>,
    index: usize,
    gateway: &Rc<Gateway>,
) -> Result<Option<Box<Exchange>>, Reason> {
    let shares = &pool.connections[index].shares;
    let stats = &gateway.totals.upstream;
    let known = shares.claim(pool);
    let reused = known.is_some();
    let claim = known.unwrap_or_else(|| {
        let claim = shares.add(pool);
        // A task of its own: the requests that wait for the connection must not end with the first of them.
        let opening = connection::open(Rc::clone(pool), index, Rc::clone(gateway), claim.share());
        tokio::task::spawn_local(opening);
        claim
    });
    if !claim.share().is_ready().await? {
        return Ok(None);
    }
    if reused { &stats.reused } else { &stats.opened }.add_one();
    let scheme = if pool.tls.is_some() { "https" } else { "http" };
    let host = pool.pool.members[index].endpoint.address.as_bytes().to_vec();
    Ok(Some(Box::new(Exchange::new(claim, reused, gateway.deadlines.register(), scheme, host))))
}
