//! `rewrite_prefix`: the matched prefix of the path gives way to another.

use weirgate_shared::reason::Reason;

use super::{Filter, RequestContext};

pub(super) struct RewritePrefix {
    prefix: Vec<u8>,
}

impl RewritePrefix {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.trim_end_matches('/').as_bytes().to_vec() }
    }
}

impl Filter for RewritePrefix {
    fn request(&self, context: &mut RequestContext<'_>) -> Result<(), Reason> {
        let path = context.head.path();
        if path == b"*" {
            return Ok(());
        }
        let mut new = self.prefix.clone();
        new.extend_from_slice(&path[context.prefix_length.min(path.len())..]);
        if new.is_empty() {
            new.push(b'/');
        }
        // A second rewrite replaces what the first put there.
        context.prefix_length = self.prefix.len();
        context.head.path = context.head.headers.store(&new);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::filter_request;
    use super::*;
    use crate::message::RequestHead;
    use weirgate_shared::rate_table::RateTable;

    #[test]
    fn the_rest_of_the_path_stays() {
        let rates = RateTable::create().expect("memfd");
        for (prefix, path, wanted) in [
            ("/", "/api/x", "/x"),
            ("/v1", "/api/x/y", "/v1/x/y"),
            ("/", "/api", "/"),
            ("/v1/", "/api/", "/v1/"),
            ("/v2", "/api", "/v2"),
        ] {
            let mut head = RequestHead::default();
            head.path = head.headers.store(path.as_bytes());
            let (verdict, ..) = filter_request(&RewritePrefix::new(prefix), &mut head, 0, &rates, None);
            assert_eq!((verdict, String::from_utf8_lossy(head.path())), (Ok(()), wanted.into()), "{prefix} {path}");
        }
    }
}
