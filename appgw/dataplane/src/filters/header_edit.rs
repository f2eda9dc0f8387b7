//! `request_headers` and `response_headers`: remove, then set, then add.

use weirgate_shared::reason::Reason;
use weirgate_shared::snapshot::HeaderEdit;

use super::{Filter, RequestContext, ResponseContext};
use crate::message::Headers;

pub(super) struct RequestHeaders(HeaderEdit);
pub(super) struct ResponseHeaders(HeaderEdit);

impl RequestHeaders {
    pub(super) fn new(edit: &HeaderEdit) -> Self {
        Self(edit.clone())
    }
}

impl ResponseHeaders {
    pub(super) fn new(edit: &HeaderEdit) -> Self {
        Self(edit.clone())
    }
}

impl Filter for RequestHeaders {
    fn request(&self, context: &mut RequestContext<'_>) -> Result<(), Reason> {
        apply(&self.0, &mut context.head.headers);
        // The host that is forwarded is a part of its own, not a field.
        if let Some((_, host)) = self.0.set.iter().find(|(name, _)| name.eq_ignore_ascii_case("host")) {
            context.head.authority = context.head.headers.store(host.as_bytes());
        }
        Ok(())
    }
}

impl Filter for ResponseHeaders {
    fn response(&self, context: &mut ResponseContext<'_>) {
        apply(&self.0, &mut context.head.headers);
    }
}

fn apply(edit: &HeaderEdit, headers: &mut Headers) {
    for name in &edit.remove {
        headers.remove(name.as_bytes());
    }
    for (name, value) in &edit.set {
        headers.set(name.as_bytes(), value.as_bytes());
    }
    for (name, value) in &edit.add {
        headers.push(name.as_bytes(), value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::filter_request;
    use super::*;
    use crate::message::RequestHead;
    use weirgate_shared::rate_table::RateTable;

    #[test]
    fn removed_then_set_then_added_and_the_host_follows() {
        let edit = HeaderEdit {
            set: vec![("X-A".into(), "new".into()), ("Host".into(), "inner".into())],
            add: vec![("x-b".into(), "2".into())],
            remove: vec!["Cookie".into()],
        };
        let mut head = RequestHead::default();
        for (name, value) in [("x-a", "1"), ("X-A", "2"), ("cookie", "c"), ("X-B", "1")] {
            head.headers.push(name.as_bytes(), value.as_bytes());
        }
        let (verdict, ..) =
            filter_request(&RequestHeaders::new(&edit), &mut head, 0, &RateTable::create().expect("memfd"), None);
        assert_eq!(verdict, Ok(()));
        assert_eq!(head.authority(), b"inner");
        assert_eq!(head.headers.values(b"x-a").collect::<Vec<_>>(), [b"new"]);
        assert_eq!(head.headers.values(b"x-b").count(), 2);
        assert_eq!(head.headers.values(b"cookie").count(), 0);
    }
}
