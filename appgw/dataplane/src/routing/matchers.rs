//! The matchers of one route: path, method, source, headers, query parameters and cookies.
//!
//! A new matcher is one field here, one line in [`Matchers::judge`], and its place in the schema.

use std::net::IpAddr;

use regex::bytes::Regex;
use weirgate_shared::cidr::CidrSet;
use weirgate_shared::snapshot::{Match, NamedMatch, PathKind, SnapshotError, ValueKind};

use crate::message::RequestHead;

enum PathTest {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Regex(Regex),
}

enum ValueTest {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Present,
    Regex(Regex),
}

struct NamedTest {
    name: Vec<u8>,
    value: ValueTest,
    invert: bool,
}

/// Everything a route wants of a request, but for the host, which the index has looked up.
pub(super) struct Matchers {
    paths: Vec<PathTest>,
    methods: Vec<Vec<u8>>,
    sources: CidrSet,
    headers: Vec<NamedTest>,
    queries: Vec<NamedTest>,
    cookies: Vec<NamedTest>,
}

impl Matchers {
    /// Compile; errors carry the path inside the match.
    pub(super) fn build(wanted: &Match) -> Result<Self, SnapshotError> {
        let paths = wanted.paths.iter().enumerate().map(|(index, path)| {
            let value = path.value.as_bytes().to_vec();
            Ok(match path.kind {
                PathKind::Exact => PathTest::Exact(value),
                PathKind::Prefix => PathTest::Prefix(value),
                PathKind::Regex => PathTest::Regex(regex(&path.value, &format!("paths.{index}.value"))?),
            })
        });
        Ok(Self {
            paths: paths.collect::<Result<_, SnapshotError>>()?,
            methods: wanted.methods.iter().map(|method| method.as_bytes().to_vec()).collect(),
            sources: CidrSet::parse(&wanted.sources).map_err(|error| SnapshotError::value("sources", error))?,
            headers: named(&wanted.headers, "headers")?,
            queries: named(&wanted.queries, "queries")?,
            cookies: named(&wanted.cookies, "cookies")?,
        })
    }

    /// The length of the matching prefix when everything holds.
    pub(super) fn judge(&self, head: &RequestHead, source: IpAddr) -> Option<usize> {
        let prefix_length = self.path(head.path())?;
        let holds = (self.methods.is_empty() || self.methods.iter().any(|method| method == head.method()))
            && (self.sources.is_empty() || self.sources.contains(source))
            && self.headers.iter().all(|test| test.holds(head.headers.values(&test.name)))
            && self.queries.iter().all(|test| test.holds(query_values(head.query().unwrap_or_default(), &test.name)))
            && self.cookies.iter().all(|test| test.holds(cookie_values(head, &test.name)));
        holds.then_some(prefix_length)
    }

    fn path(&self, path: &[u8]) -> Option<usize> {
        if self.paths.is_empty() {
            return Some(0);
        }
        self.paths.iter().find_map(|test| match test {
            PathTest::Exact(value) => (value == path).then_some(path.len()),
            PathTest::Prefix(value) => {
                let rest = path.strip_prefix(value.as_slice())?;
                (rest.is_empty() || rest[0] == b'/' || value.is_empty()).then_some(value.len())
            }
            PathTest::Regex(regex) => regex.is_match(path).then_some(path.len()),
        })
    }
}

impl NamedTest {
    /// Whether one of the values passes; inverted, that none does.
    fn holds<'a>(&self, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
        self.invert
            != values.any(|value| match &self.value {
                ValueTest::Exact(wanted) => wanted == value,
                ValueTest::Prefix(wanted) => value.starts_with(wanted),
                ValueTest::Present => true,
                ValueTest::Regex(regex) => regex.is_match(value),
            })
    }
}

fn named(wanted: &[NamedMatch], list: &str) -> Result<Vec<NamedTest>, SnapshotError> {
    let build = |(index, test): (usize, &NamedMatch)| {
        let value = test.value.as_bytes().to_vec();
        Ok(NamedTest {
            name: test.name.as_bytes().to_vec(),
            invert: test.invert,
            value: match test.kind {
                ValueKind::Exact => ValueTest::Exact(value),
                ValueKind::Prefix => ValueTest::Prefix(value),
                ValueKind::Present => ValueTest::Present,
                ValueKind::Regex => ValueTest::Regex(regex(&test.value, &format!("{list}.{index}.value"))?),
            },
        })
    };
    wanted.iter().enumerate().map(build).collect()
}

/// The `regex` crate matches in linear time, so an expression cannot be made to hang (no backtracking).
fn regex(text: &str, path: &str) -> Result<Regex, SnapshotError> {
    Regex::new(text).map_err(|error| SnapshotError::value(path, format!("not a regular expression: {error}")))
}

/// Values of a query parameter, as sent (not percent-decoded, so that what matches is what is forwarded).
fn query_values<'a>(query: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    query.split(|&byte| byte == b'&').filter_map(move |pair| {
        let (key, value) = pair.split_at(memchr::memchr(b'=', pair).unwrap_or(pair.len()));
        (key == name && !pair.is_empty()).then(|| value.strip_prefix(b"=").unwrap_or(value))
    })
}

/// Values of a cookie, over all Cookie fields (RFC 6265 §5.4).
pub(crate) fn cookie_values<'a>(head: &'a RequestHead, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    head.headers.values(b"cookie").flat_map(|field| field.split(|&byte| byte == b';')).filter_map(move |pair| {
        let pair = pair.trim_ascii();
        pair.strip_prefix(name)?.strip_prefix(b"=")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::RequestHead;

    #[test]
    fn cookies_and_query_parameters_are_found_among_others() {
        let mut head = RequestHead::default();
        head.headers.push(b"Cookie", b"a=1; sid=x=y;sid2=z");
        head.headers.push(b"cookie", b"sid=second");
        assert_eq!(cookie_values(&head, b"sid").collect::<Vec<_>>(), [&b"x=y"[..], b"second"]);
        assert_eq!(query_values(b"a=1&b&a=2&ab=3&=", b"a").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(query_values(b"a=1&b&c=", b"b").collect::<Vec<_>>(), [b""]);
    }
}
