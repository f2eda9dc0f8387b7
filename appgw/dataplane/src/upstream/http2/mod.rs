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

/// What a wish for a stream came to.
pub(super) enum Verdict {
    Stream(Box<Exchange>),
    /// There is no room, and no further connection may be opened.
    Full,
    /// The endpoint, which may choose, has chosen HTTP/1.1.
    SpeaksHttp1,
}

/// A stream of a shared connection to member `index`: of one that has room, unless `fresh`, or of a new one.
pub(super) async fn obtain(
    pool: &Rc<UpstreamPool>,
    index: usize,
    fresh: bool,
    gateway: &Rc<Gateway>,
) -> Result<Verdict, Reason> {
    let shares = &pool.connections[index].shares;
    let stats = &gateway.totals.upstream;
    let (claim, reused) = loop {
        let known = if fresh { None } else { shares.claim(pool) };
        let reused = known.is_some();
        let claim = match known {
            Some(claim) => claim,
            // A kept connection in HTTP/1.1 is a place, too.
            None if !pool.pool.has_room(index) && !pool.connections[index].idle.give_up_one() => {
                return Ok(Verdict::Full);
            }
            None => {
                let claim = shares.add(pool);
                let open = pool.pool.members[index].endpoint.open();
                // A task of its own: the requests that wait for the connection must not end with the first of them.
                let opening = connection::open(Rc::clone(pool), index, Rc::clone(gateway), claim.share(), open);
                tokio::task::spawn_local(opening);
                claim
            }
        };
        if !claim.share().is_ready().await? {
            return Ok(Verdict::SpeaksHttp1);
        }
        // Only the first one may go before it is known how many the endpoint takes at once.
        if reused && !shares.knows_limit() {
            claim.share().settled().await;
        }
        if !(reused && claim.share().is_overbooked(pool)) {
            break (claim, reused);
        }
    };
    if reused { &stats.reused } else { &stats.opened }.add_one();
    let scheme = if pool.tls.is_some() { "https" } else { "http" };
    let endpoint = Rc::clone(&pool.pool.members[index].endpoint);
    Ok(Verdict::Stream(Box::new(Exchange::new(claim, reused, gateway.deadlines.register(), scheme, endpoint))))
}
