//! `grpc_web`: calls of gRPC-Web are answered by a gRPC application.

use weirgate_shared::reason::Reason;

use super::{Filter, RequestContext};
use crate::grpc_web::Bridge;

pub(super) struct GrpcWeb;

impl Filter for GrpcWeb {
    /// The body, and the answer, are changed where they are relayed; other requests pass as they are.
    fn request(&self, context: &mut RequestContext<'_>) -> Result<(), Reason> {
        if context.bridge.is_none() {
            context.bridge = Bridge::open(context.head);
        }
        Ok(())
    }
}
