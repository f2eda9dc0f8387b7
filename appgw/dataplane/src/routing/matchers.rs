//! The matchers of one route: path, method, source, listener, headers, query parameters, cookies and the
//! client's certificate.
//!
//! A new matcher is one field here, one line in [`Matchers::judge`], and its place in the schema.

use std::iter::once;

use regex::bytes::Regex;
use weirgate_shared::cidr::CidrSet;
use weirgate_shared::snapshot::{CertificateMatch, Match, NamedMatch, PathKind, SnapshotError, ValueKind, ValueMatch};

use super::Caller;
use crate::client_certificate::ClientCertificate;
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

struct Test {
    value: ValueTest,
    invert: bool,
}

struct NamedTest {
    name: Vec<u8>,
    test: Test,
}

/// What a route wants of the client's certificate, which must be there.
struct CertificateTest {
    subject: Option<Test>,
    san: Option<Test>,
    fingerprints: Vec<String>,
}

/// Everything a route wants of a request, but for the host, which the index has looked up.
pub(super) struct Matchers {
    paths: Vec<PathTest>,
    methods: Vec<Vec<u8>>,
    sources: CidrSet,
    listeners: Vec<String>,
    headers: Vec<NamedTest>,
    queries: Vec<NamedTest>,
    cookies: Vec<NamedTest>,
    certificate: Option<CertificateTest>,
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
            listeners: wanted.listeners.clone(),
            headers: named(&wanted.headers, "headers")?,
            queries: named(&wanted.queries, "queries")?,
            cookies: named(&wanted.cookies, "cookies")?,
            certificate: wanted.client_certificate.as_ref().map(CertificateTest::build).transpose()?,
        })
    }

    /// The length of the matching prefix when everything holds.
    pub(super) fn judge(&self, head: &RequestHead, caller: &Caller<'_>) -> Option<usize> {
        let prefix_length = self.path(head.path())?;
        let holds = (self.methods.is_empty() || self.methods.iter().any(|method| method == head.method()))
            && (self.sources.is_empty() || self.sources.contains(caller.source))
            && (self.listeners.is_empty() || self.listeners.iter().any(|name| caller.listener == Some(name)))
            && self.headers.iter().all(|test| test.holds(head.headers.values(&test.name)))
            && self.queries.iter().all(|test| test.holds(query_values(head.query().unwrap_or_default(), &test.name)))
            && self.cookies.iter().all(|test| test.holds(cookie_values(head, &test.name)))
            && self
                .certificate
                .as_ref()
                .is_none_or(|test| caller.certificate.is_some_and(|certificate| test.holds(certificate)));
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
    fn holds<'a>(&self, values: impl Iterator<Item = &'a [u8]>) -> bool {
        self.test.holds(values)
    }
}

impl CertificateTest {
    fn build(wanted: &CertificateMatch) -> Result<Self, SnapshotError> {
        let test = |wanted: Option<&ValueMatch>, field: &str| {
            let build = |wanted: &ValueMatch| {
                let path = format!("client_certificate.{field}.value");
                Test::build(wanted.kind, &wanted.value, wanted.invert, &path)
            };
            wanted.map(build).transpose()
        };
        Ok(Self {
            subject: test(wanted.subject.as_ref(), "subject")?,
            san: test(wanted.san.as_ref(), "san")?,
            fingerprints: wanted.fingerprints.clone(),
        })
    }

    fn holds(&self, certificate: &ClientCertificate) -> bool {
        (self.fingerprints.is_empty() || self.fingerprints.contains(&certificate.fingerprint))
            && self.subject.as_ref().is_none_or(|test| test.holds(once(certificate.subject.as_bytes())))
            && self.san.as_ref().is_none_or(|test| test.holds(certificate.alternative_names()))
    }
}

impl Test {
    /// Compile; `path` is where an error stands.
    fn build(kind: ValueKind, value: &str, invert: bool, path: &str) -> Result<Self, SnapshotError> {
        let bytes = value.as_bytes().to_vec();
        let value = match kind {
            ValueKind::Exact => ValueTest::Exact(bytes),
            ValueKind::Prefix => ValueTest::Prefix(bytes),
            ValueKind::Present => ValueTest::Present,
            ValueKind::Regex => ValueTest::Regex(regex(value, path)?),
        };
        Ok(Self { value, invert })
    }

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
    let build = |(index, named): (usize, &NamedMatch)| {
        let test = Test::build(named.kind, &named.value, named.invert, &format!("{list}.{index}.value"))?;
        Ok(NamedTest { name: named.name.as_bytes().to_vec(), test })
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
