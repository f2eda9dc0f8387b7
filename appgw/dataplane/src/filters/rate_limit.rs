//! `rate_limit`: a token bucket per source and route, one for all gateways of the node.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHasher;
use weirgate_shared::rate_table::Rate;
use weirgate_shared::reason::Reason;
use weirgate_shared::snapshot::SourcePrefix;

use super::{Filter, RequestContext, Surroundings};

pub(super) struct RateLimit {
    rate: Rate,
    scope: u64,
    prefix: SourcePrefix,
}

impl RateLimit {
    pub(super) fn new(per_second: f64, burst: u32, prefix: SourcePrefix, around: &Surroundings<'_>) -> Self {
        let mut hasher = FxHasher::default();
        (around.route, around.position).hash(&mut hasher);
        Self { rate: Rate { per_second, burst }, scope: hasher.finish(), prefix }
    }
}

impl Filter for RateLimit {
    fn request(&self, context: &mut RequestContext<'_>) -> Result<(), Reason> {
        let source = self.prefix.of(context.source);
        context.rates.take(self.scope, source, self.rate, context.now_us).map_err(|wait_ms| {
            context.retry_after = Some(wait_ms.div_ceil(1000).max(1));
            Reason::RateLimited
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::filter_request;
    use super::*;
    use crate::message::RequestHead;
    use weirgate_shared::rate_table::RateTable;

    #[test]
    fn beyond_the_burst_it_is_refused_and_told_when_to_come_back() {
        let rates = RateTable::create().expect("memfd");
        let around = Surroundings { route: "r", position: 0, pool: None, cookie_secret: "" };
        let filter = RateLimit::new(0.5, 2, SourcePrefix::default(), &around);
        let mut head = RequestHead::default();
        let mut ask = |now_us| filter_request(&filter, &mut head, now_us, &rates, None);
        assert_eq!((ask(1_000).0, ask(1_000).0), (Ok(()), Ok(())));
        let (verdict, _, retry_after) = ask(1_000);
        assert_eq!((verdict, retry_after), (Err(Reason::RateLimited), Some(2)));
        assert_eq!(ask(2_001_000).0, Ok(()));
    }
}
