//! Filters: what happens to a message on its way, in the order written. One file a filter.

mod grpc_web;
mod header_edit;
mod rate_limit;
mod rewrite_prefix;
mod sticky;

use std::net::IpAddr;

use weirgate_shared::pool::Pool;
use weirgate_shared::rate_table::RateTable;
use weirgate_shared::reason::Reason;
use weirgate_shared::snapshot::{self, SnapshotError};

use crate::grpc_web::Bridge;
use crate::message::{RequestHead, ResponseHead};

/// What a filter may look at and change before the request leaves.
pub(crate) struct RequestContext<'a> {
    pub(crate) head: &'a mut RequestHead,
    pub(crate) source: IpAddr,
    /// How much of the path the route's prefix covers.
    pub(crate) prefix_length: usize,
    pub(crate) rates: &'a RateTable,
    pub(crate) now_us: u64,
    /// The member of the pool that the client is bound to, and may be given even when it gets no new work.
    pub(crate) preferred: Option<usize>,
    /// Seconds after which a refused client may try again.
    pub(crate) retry_after: Option<u64>,
    pub(crate) pool: Option<&'a Pool>,
    /// What changes the bodies of this call.
    pub(crate) bridge: Option<Bridge>,
}

/// What a filter may look at and change before the response leaves.
pub(crate) struct ResponseContext<'a> {
    pub(crate) head: &'a mut ResponseHead,
    /// The member of the pool that answered, and the one that the client was bound to.
    pub(crate) chosen: Option<usize>,
    pub(crate) preferred: Option<usize>,
}

/// A filter of one route.
pub(crate) trait Filter {
    /// Before the request leaves. An error is answered instead.
    fn request(&self, _context: &mut RequestContext<'_>) -> Result<(), Reason> {
        Ok(())
    }
    /// Before the response leaves.
    fn response(&self, _context: &mut ResponseContext<'_>) {}
}

/// What a filter is made from besides its own settings.
pub(crate) struct Surroundings<'a> {
    pub(crate) route: &'a str,
    pub(crate) position: usize,
    pub(crate) pool: Option<&'a Pool>,
    pub(crate) cookie_secret: &'a str,
}

/// The registry: one line a filter.
pub(crate) fn build(filter: &snapshot::Filter, around: &Surroundings<'_>) -> Result<Box<dyn Filter>, SnapshotError> {
    Ok(match filter {
        snapshot::Filter::GrpcWeb {} => Box::new(grpc_web::GrpcWeb),
        snapshot::Filter::RateLimit { per_second, burst, source_prefix } => {
            Box::new(rate_limit::RateLimit::new(*per_second, *burst, *source_prefix, around))
        }
        snapshot::Filter::RequestHeaders(edit) => Box::new(header_edit::RequestHeaders::new(edit)),
        snapshot::Filter::ResponseHeaders(edit) => Box::new(header_edit::ResponseHeaders::new(edit)),
        snapshot::Filter::RewritePrefix { prefix } => Box::new(rewrite_prefix::RewritePrefix::new(prefix)),
        snapshot::Filter::Sticky { cookie, max_age_ms, secure, path } => {
            Box::new(sticky::Sticky::new(cookie, *max_age_ms, *secure, path, around)?)
        }
    })
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Run one filter over a request.
    pub(crate) fn filter_request(
        filter: &dyn Filter,
        head: &mut RequestHead,
        now_us: u64,
        rates: &RateTable,
        pool: Option<&Pool>,
    ) -> (Result<(), Reason>, Option<usize>, Option<u64>) {
        let prefix_length =
            head.path().iter().skip(1).position(|&byte| byte == b'/').map_or(head.path().len(), |at| at + 1);
        let source = "192.0.2.1".parse().expect("valid");
        let mut context = RequestContext {
            head,
            source,
            prefix_length,
            rates,
            now_us,
            preferred: None,
            retry_after: None,
            pool,
            bridge: None,
        };
        let verdict = filter.request(&mut context);
        (verdict, context.preferred, context.retry_after)
    }
}
