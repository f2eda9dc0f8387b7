//! Which route a request takes: the first in the order written whose matchers all hold.
//!
//! `index` finds the routes whose host and path can match, without looking at the others; `matchers`
//! judge the rest. [`scan`] is the same by looking at every route: the oracle, and `explain`'s way.

mod index;
mod matchers;

use std::net::IpAddr;

use weirgate_shared::snapshot::{Match, SnapshotError};

use crate::client_certificate::ClientCertificate;
use crate::message::RequestHead;
use index::Index;
use matchers::Matchers;
pub(crate) use matchers::cookie_values;

/// Who asks, as far as routes can tell: what is not in the request itself.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Its address.
    pub source: IpAddr,
    /// The name of the listener that it came by; none = a reload has removed it since.
    pub listener: Option<&'a str>,
    /// Its verified certificate.
    pub certificate: Option<&'a ClientCertificate>,
}

/// What a match found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matched {
    /// The route's position.
    pub route: usize,
    /// How much of the path the matching prefix covers (all of it for exact paths and expressions).
    pub prefix_length: usize,
}

/// The compiled routes of a snapshot.
pub struct Router {
    index: Index,
    matchers: Vec<Matchers>,
    /// Whether any route is for some listeners only.
    tells_listeners: bool,
}

impl Router {
    /// Compile matches, in the order of their routes.
    pub fn build<'a>(matches: impl Iterator<Item = &'a Match>) -> Result<Self, SnapshotError> {
        let mut router = Self { index: Index::default(), matchers: Vec::new(), tells_listeners: false };
        for (route, wanted) in matches.enumerate() {
            router.index.add(route, wanted);
            router.tells_listeners |= !wanted.listeners.is_empty();
            router.matchers.push(Matchers::build(wanted).map_err(|error| match error {
                SnapshotError::Value { path, message } => {
                    SnapshotError::value(format!("routes.{route}.match.{path}"), message)
                }
                other => other,
            })?);
        }
        router.index.finish();
        Ok(router)
    }

    /// Whether it matters which listener a request came by.
    #[must_use]
    pub fn tells_listeners(&self) -> bool {
        self.tells_listeners
    }

    /// The route that `head` from `caller` takes. None where routes tell listeners and the caller's is gone: what was
    /// kept from it by a route for its listener must not fall through to the next one.
    #[must_use]
    pub fn find(&self, head: &RequestHead, caller: &Caller<'_>) -> Option<Matched> {
        if self.tells_listeners && caller.listener.is_none() {
            return None;
        }
        let mut host = [0u8; 256];
        let host = lower_host(head.authority(), &mut host);
        self.index.first(host, head.path(), |route| {
            let prefix_length = self.matchers[route].judge(head, caller)?;
            Some(Matched { route, prefix_length })
        })
    }
}

/// The same as [`Router::find`] by trying every route: for tests and for explanations.
#[must_use]
pub fn scan(matches: &[Match], head: &RequestHead, caller: &Caller<'_>) -> Option<Matched> {
    if caller.listener.is_none() && matches.iter().any(|wanted| !wanted.listeners.is_empty()) {
        return None;
    }
    let mut buffer = [0u8; 256];
    let host = lower_host(head.authority(), &mut buffer);
    matches.iter().enumerate().find_map(|(route, wanted)| {
        let host_holds =
            wanted.hosts.is_empty() || wanted.hosts.iter().any(|pattern| host_matches(pattern.as_bytes(), host));
        let prefix_length = Matchers::build(wanted).ok()?.judge(head, caller)?;
        host_holds.then_some(Matched { route, prefix_length })
    })
}

/// `*.x` covers one or more labels in front of `x`; anything else is compared whole.
fn host_matches(pattern: &[u8], host: &[u8]) -> bool {
    match pattern.strip_prefix(b"*") {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => pattern == host,
    }
}

/// The host in lower case, without port and trailing dot. A longer one than 255 bytes matches nothing.
fn lower_host<'a>(authority: &[u8], buffer: &'a mut [u8; 256]) -> &'a [u8] {
    let host = match authority {
        [b'[', ..] => &authority[..memchr::memchr(b']', authority).map_or(authority.len(), |end| end + 1)],
        _ => &authority[..memchr::memchr(b':', authority).unwrap_or(authority.len())],
    };
    let host = host.strip_suffix(b".").unwrap_or(host);
    if host.len() > 255 {
        return &[];
    }
    let lower = &mut buffer[..host.len()];
    lower.copy_from_slice(host);
    lower.make_ascii_lowercase();
    lower
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::PathPolicy;
    use crate::http1::{HeadScan, Limits, parse_request};
    use proptest::prelude::*;
    use weirgate_shared::snapshot::{CertificateMatch, NamedMatch, PathKind, PathMatch, ValueKind, ValueMatch};

    const LIMITS: Limits = Limits { header_bytes: 10_000, header_count: 100, uri_bytes: 1000, paths: PathPolicy::KEEP };

    fn request(method: &str, host: &str, target: &str, fields: &str) -> RequestHead {
        let text = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
        let mut head = RequestHead::default();
        let verdict = parse_request(text.as_bytes(), &mut HeadScan::default(), &LIMITS, &mut head);
        assert!(matches!(verdict, Ok(Some(_))), "{text:?}: {verdict:?}");
        head
    }

    fn path(kind: PathKind, value: &str) -> PathMatch {
        PathMatch { kind, value: value.into() }
    }

    fn named(name: &str, kind: ValueKind, value: &str, invert: bool) -> NamedMatch {
        NamedMatch { name: name.into(), kind, value: value.into(), invert }
    }

    fn caller(certificate: Option<&ClientCertificate>) -> Caller<'_> {
        Caller { source: "127.0.0.1".parse().expect("valid"), listener: Some("web"), certificate }
    }

    #[test]
    fn a_client_certificate_is_matched_by_what_it_says() {
        let value = |kind, value: &str, invert| Some(ValueMatch { kind, value: value.into(), invert });
        let wanted = |certificate| Match { client_certificate: Some(certificate), ..Match::default() };
        let any = CertificateMatch::default;
        let matches = [
            wanted(CertificateMatch { fingerprints: vec!["ab".into(), "cd".into()], ..any() }),
            wanted(CertificateMatch { subject: value(ValueKind::Prefix, "CN=billing,", false), ..any() }),
            wanted(CertificateMatch {
                san: value(ValueKind::Exact, "spiffe://example/a", false),
                subject: value(ValueKind::Regex, "O=Example$", false),
                ..any()
            }),
            wanted(CertificateMatch { san: value(ValueKind::Present, "", true), ..any() }),
            wanted(any()),
            Match::default(),
        ];
        let router = Router::build(matches.iter()).expect("valid");
        let taken = |certificate: Option<&ClientCertificate>| {
            let head = request("GET", "a", "/", "");
            let caller = caller(certificate);
            let found = router.find(&head, &caller).map(|matched| matched.route);
            assert_eq!(found, scan(&matches, &head, &caller).map(|matched| matched.route));
            found
        };
        let shown = |subject: &str, uri: &str, fingerprint: &str| ClientCertificate {
            subject: subject.into(),
            uris: if uri.is_empty() { vec![] } else { vec!["spiffe://example/first".into(), uri.into()] },
            fingerprint: fingerprint.into(),
            ..ClientCertificate::default()
        };
        assert_eq!(taken(None), Some(5));
        assert_eq!(taken(Some(&shown("CN=x", "", "cd"))), Some(0));
        assert_eq!(taken(Some(&shown("CN=billing,O=Example", "", "00"))), Some(1));
        assert_eq!(taken(Some(&shown("CN=x,O=Example", "spiffe://example/a", "00"))), Some(2));
        assert_eq!(taken(Some(&shown("CN=x,O=Other", "", "00"))), Some(3));
        assert_eq!(taken(Some(&shown("CN=x,O=Other", "spiffe://example/a", "00"))), Some(4));
    }

    #[test]
    fn first_in_the_order_written_wins() {
        let matches = [
            Match { hosts: vec!["a.example".into()], paths: vec![path(PathKind::Exact, "/x")], ..Match::default() },
            Match { paths: vec![path(PathKind::Prefix, "/x")], ..Match::default() },
            Match { hosts: vec!["*.example".into()], ..Match::default() },
            Match {
                paths: vec![path(PathKind::Regex, "^/v[0-9]+/")],
                methods: vec!["POST".into()],
                ..Match::default()
            },
            Match::default(),
        ];
        let router = Router::build(matches.iter()).expect("valid");
        let caller = caller(None);
        let route = |method: &str, host: &str, target: &str| {
            router.find(&request(method, host, target, ""), &caller).map(|m| m.route)
        };
        assert_eq!(route("GET", "A.EXAMPLE.:80", "/x"), Some(0));
        assert_eq!(route("GET", "a.example", "/x/"), Some(1));
        assert_eq!(route("GET", "a.example", "/xy"), Some(2));
        assert_eq!(route("GET", "b.a.example", "/"), Some(2));
        assert_eq!(route("GET", "example", "/"), Some(4));
        assert_eq!(route("POST", "c", "/v12/a"), Some(3));
        assert_eq!(route("GET", "c", "/v12/a"), Some(4));
        assert_eq!(
            router.find(&request("GET", "c", "/x/y", ""), &caller),
            Some(Matched { route: 1, prefix_length: 2 })
        );
    }

    #[test]
    fn a_bad_expression_says_where_it_stands() {
        let matches = [Match::default(), Match { paths: vec![path(PathKind::Regex, "(")], ..Match::default() }];
        let error = Router::build(matches.iter()).err().expect("refused").to_string();
        assert!(error.starts_with("routes.1.match.paths.0.value: "), "{error}");
    }

    fn any_match() -> impl Strategy<Value = Match> {
        let host = prop::sample::select(vec!["a.b", "*.b", "*.a.b", "c", "*.c.a.b"]);
        let a_path = (
            prop::sample::select(vec![PathKind::Exact, PathKind::Prefix, PathKind::Regex]),
            prop::sample::select(vec!["/", "/x", "/x/y", "/x/y/z", "/xy", "/y"]),
        )
            .prop_map(|(kind, value)| {
                let value = if kind == PathKind::Prefix && value == "/" { "" } else { value };
                path(kind, value)
            });
        let a_name = (
            prop::sample::select(vec!["k", "l"]),
            prop::sample::select(vec![ValueKind::Exact, ValueKind::Prefix, ValueKind::Present, ValueKind::Regex]),
            prop::sample::select(vec!["v", "vw"]),
            any::<bool>(),
        )
            .prop_map(|(name, kind, value, invert)| named(name, kind, value, invert));
        (
            prop::collection::vec(host, 0..3),
            prop::collection::vec(a_path, 0..3),
            prop::collection::vec(prop::sample::select(vec!["GET", "POST"]), 0..2),
            prop::collection::vec(a_name.clone(), 0..2),
            prop::collection::vec(a_name, 0..2),
            prop::collection::vec(prop::sample::select(vec!["127.0.0.0/8", "10.0.0.0/8"]), 0..2),
            prop::collection::vec(prop::sample::select(vec!["web", "plain"]), 0..2),
        )
            .prop_map(|(hosts, paths, methods, headers, queries, sources, listeners)| Match {
                hosts: hosts.into_iter().map(str::to_owned).collect(),
                paths,
                methods: methods.into_iter().map(str::to_owned).collect(),
                headers,
                queries,
                cookies: vec![],
                sources: sources.into_iter().map(str::to_owned).collect(),
                listeners: listeners.into_iter().map(str::to_owned).collect(),
                client_certificate: None,
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
        #[test]
        fn the_index_agrees_with_a_scan(
            matches in prop::collection::vec(any_match(), 0..25),
            host in prop::sample::select(vec!["a.b", "x.a.b", "y.x.a.b", "b", "c", "c.a.b", "x.c.a.b", "A.B:80"]),
            target in prop::sample::select(vec!["/", "/x", "/x/", "/x/y", "/x/y/z/w", "/xy", "/y?k=v", "/x?k=vw&l", "/x//y", "*"]),
            fields in prop::sample::select(vec!["", "k: v\r\n", "k: vw\r\nl: v\r\n"]),
            listener in prop::sample::select(vec![Some("web"), Some("other"), None]),
        ) {
            let method = if target == "*" { "OPTIONS" } else { "GET" };
            let head = request(method, host, target, fields);
            let caller = Caller { listener, ..caller(None) };
            let router = Router::build(matches.iter()).expect("valid");
            prop_assert_eq!(router.find(&head, &caller), scan(&matches, &head, &caller));
        }
    }
}
