//! The request target and the host: which forms are taken, and how a path is normalised.

use weirgate_shared::reason::Reason;

/// A request target's parts as byte ranges of it; `path` may need [`normalise`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// From absolute-form: it wins over the Host field (RFC 9112 §3.2.2).
    pub(crate) authority: Option<&'a [u8]>,
    pub(crate) path: &'a [u8],
    pub(crate) query: Option<&'a [u8]>,
}

/// Take a target apart (RFC 9112 §3.2).
pub(crate) fn parse<'a>(method: &[u8], target: &'a [u8]) -> Result<Target<'a>, Reason> {
    if matches!(method, b"CONNECT" | b"TRACE") {
        return Err(Reason::MethodNotSupported);
    }
    // A fragment is never sent; raw bytes outside ASCII and controls are not URI characters (RFC 3986 §2).
    if target.iter().any(|&byte| byte <= b' ' || byte >= 0x7f || byte == b'#') {
        return Err(Reason::BadRequestTarget);
    }
    if target == b"*" {
        let asterisk = Target { authority: None, path: target, query: None };
        return if method == b"OPTIONS" { Ok(asterisk) } else { Err(Reason::BadRequestTarget) };
    }
    if target.first() == Some(&b'/') {
        let (path, query) = split_query(target);
        return Ok(Target { authority: None, path, query });
    }
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| {
            let (start, rest) = target.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
        })
        .ok_or(Reason::BadRequestTarget)?;
    let end = rest.iter().position(|byte| b"/?".contains(byte)).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (path, query) = split_query(rest);
    // An absolute target without a path means the root (RFC 9112 §3.2.1), except for OPTIONS (§3.2.4).
    let path = match path {
        b"" if method == b"OPTIONS" && query.is_none() => b"*",
        b"" => b"/",
        path => path,
    };
    Ok(Target { authority: Some(authority), path, query })
}

fn split_query(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    }
}

/// What becomes of an encoded slash (`%2F`) in a path: applications disagree on whether it divides segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodedSlashes {
    /// It stays as it is, within its segment.
    Keep,
    /// The request is refused.
    Reject,
    /// It is a slash.
    Decode,
}

/// How paths are normalised before they are matched and forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathPolicy {
    /// Several slashes in a row are one.
    pub merge_slashes: bool,
    /// What `%2F` means.
    pub encoded_slashes: EncodedSlashes,
}

impl PathPolicy {
    /// Slashes stay as they are.
    pub const KEEP: Self = Self { merge_slashes: false, encoded_slashes: EncodedSlashes::Keep };
}

/// A path as it is matched and forwarded, where that differs from how it came.
///
/// Dot segments are always removed (RFC 3986 §5.2.4), where `%2e` is a dot; a path that climbs above the root
/// is refused.
pub(crate) fn normalise(path: &[u8], policy: PathPolicy) -> Result<Option<Vec<u8>>, Reason> {
    let slash = policy.encoded_slashes != EncodedSlashes::Keep && has_encoded(path, b'f');
    if slash && policy.encoded_slashes == EncodedSlashes::Reject {
        return Err(Reason::BadRequestTarget);
    }
    let double = policy.merge_slashes && memchr::memmem::find(path, b"//").is_some();
    let dotted = memchr::memmem::find(path, b"/.").is_some() || has_encoded(path, b'e');
    if !(slash || double || dotted) || path == b"*" {
        return Ok(None);
    }
    let decoded = if slash { decode_slashes(path) } else { path.to_vec() };
    remove_segments(&decoded, policy.merge_slashes).map(Some)
}

/// Whether `%2` with this digit behind it is in the path.
fn has_encoded(path: &[u8], digit: u8) -> bool {
    memchr::memmem::find(path, b"%2").is_some()
        && path.windows(3).any(|window| window[0] == b'%' && window[1] == b'2' && window[2] | 0x20 == digit)
}

fn decode_slashes(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = if let [b'%', b'2', b'f' | b'F', behind @ ..] = rest {
            out.push(b'/');
            behind
        } else {
            out.push(byte);
            behind
        };
    }
    out
}

/// Remove dot segments, and empty ones where slashes are merged.
fn remove_segments(path: &[u8], merge: bool) -> Result<Vec<u8>, Reason> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut trailing = false;
    for segment in path[1..].split(|&byte| byte == b'/') {
        trailing = false;
        match dots(segment) {
            Some(1) => trailing = true,
            Some(_) => {
                segments.pop().ok_or(Reason::BadRequestTarget)?;
                trailing = true;
            }
            None if merge && segment.is_empty() => trailing = true,
            None => segments.push(segment),
        }
    }
    let mut out = Vec::with_capacity(path.len());
    for segment in &segments {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if trailing || out.is_empty() {
        out.push(b'/');
    }
    Ok(out)
}

/// 1 or 2 when the segment is `.` or `..`, in any encoding.
fn dots(segment: &[u8]) -> Option<usize> {
    let (mut rest, mut count) = (segment, 0);
    while !rest.is_empty() {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return None,
        };
        count += 1;
    }
    (1..=2).contains(&count).then_some(count)
}

/// Whether `host` is a host with an optional port (RFC 9110 §7.2), in characters that mean one thing only.
pub(crate) fn valid_host(host: &[u8]) -> bool {
    let (name, port) = match host {
        [b'[', rest @ ..] => match memchr::memchr(b']', rest) {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => return false,
        },
        _ => host.split_at(memchr::memchr(b':', host).unwrap_or(host.len())),
    };
    let port_is_good = match port {
        [] | [b':'] => true,
        [b':', digits @ ..] => std::str::from_utf8(digits)
            .is_ok_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok()),
        _ => false,
    };
    let literal = host.first() == Some(&b'[');
    let name_is_good = if literal {
        std::str::from_utf8(name).is_ok_and(|name| name.parse::<std::net::Ipv6Addr>().is_ok())
    } else {
        !name.is_empty() && name.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte))
    };
    port_is_good && name_is_good && host.len() <= 300
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn targets() {
        let parts = |method: &str, target: &'static str| {
            parse(method.as_bytes(), target.as_bytes()).map(|t| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                (t.authority.map(text), text(t.path), t.query.map(text))
            })
        };
        let s = |text: &str| text.to_owned();
        assert_eq!(parts("GET", "/a?b?c"), Ok((None, s("/a"), Some(s("b?c")))));
        assert_eq!(parts("GET", "HTTP://h:1/a?"), Ok((Some(s("h:1")), s("/a"), Some(s("")))));
        assert_eq!(parts("GET", "http://h?q"), Ok((Some(s("h")), s("/"), Some(s("q")))));
        assert_eq!(parts("OPTIONS", "http://h"), Ok((Some(s("h")), s("*"), None)));
        assert_eq!(parts("OPTIONS", "*"), Ok((None, s("*"), None)));
        for bad in ["*", "a", "", "ftp://h/", "/a#b", "/\u{e9}", "h:80", "//", "/a b"] {
            let verdict = parts("GET", bad);
            assert!(verdict.is_err() == (bad != "//"), "{bad}: {verdict:?}");
        }
        assert_eq!(parts("CONNECT", "h:80"), Err(Reason::MethodNotSupported));
    }

    #[test]
    fn dot_segments() {
        for (path, wanted) in [
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/.", "/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/...", "/..."),
            ("/.a", "/.a"),
            ("/a//../b", "/a/b"),
            ("/a%2fb", "/a%2fb"),
        ] {
            assert_eq!(normalised(path, PathPolicy::KEEP), Ok(wanted.to_owned()), "{path}");
        }
        assert_eq!(normalised("/a/../..", PathPolicy::KEEP), Err(Reason::BadRequestTarget));
    }

    fn normalised(path: &str, policy: PathPolicy) -> Result<String, Reason> {
        let cleaned = normalise(path.as_bytes(), policy)?.unwrap_or_else(|| path.as_bytes().to_vec());
        Ok(String::from_utf8_lossy(&cleaned).into_owned())
    }

    #[test]
    fn slashes_by_policy() {
        let merge = PathPolicy { merge_slashes: true, ..PathPolicy::KEEP };
        let decode = PathPolicy { encoded_slashes: EncodedSlashes::Decode, ..PathPolicy::KEEP };
        let both = PathPolicy { merge_slashes: true, ..decode };
        for (policy, path, wanted) in [
            (merge, "//a///b//", "/a/b/"),
            (merge, "//", "/"),
            (merge, "/a//..//b", "/b"),
            (merge, "/a%2F%2fb", "/a%2F%2fb"),
            (merge, "*", "*"),
            (decode, "/a%2Fb%2f", "/a/b/"),
            (decode, "/a%2F..%2f..%2Fb", ""),
            (decode, "/a%2F%2e%2e%2fb", "/b"),
            (decode, "/a%2F/b", "/a//b"),
            (decode, "/a%252Fb", "/a%252Fb"),
            (both, "/a%2F/b", "/a/b"),
        ] {
            let verdict = normalised(path, policy);
            let wanted = if wanted.is_empty() { Err(Reason::BadRequestTarget) } else { Ok(wanted.to_owned()) };
            assert_eq!(verdict, wanted, "{path}");
        }
        let reject = PathPolicy { encoded_slashes: EncodedSlashes::Reject, ..PathPolicy::KEEP };
        assert_eq!(normalised("/a%2fb", reject), Err(Reason::BadRequestTarget));
        assert_eq!(normalised("/a%20b", reject), Ok("/a%20b".into()));
    }

    #[test]
    fn hosts() {
        for good in ["a", "a.b:80", "[::1]", "[::1]:8080", "1.2.3.4", "a_b", "xn--caf-dma.example"] {
            assert!(valid_host(good.as_bytes()), "{good}");
        }
        for bad in
            ["", ":80", "a b", "a:b", "a:123456", "a:65536", "a@b", "[::1", "[x]", "a/b", "[::1]x", "a\tb", "a:80:80"]
        {
            assert!(!valid_host(bad.as_bytes()), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_normalised_path_is_stable_and_has_no_dot_segment(
            pieces in prop::collection::vec(prop::sample::select(vec!["a", "..", ".", "%2e", "%2E.", "", "b.c", "%2f", "c%2F"]), 1..8),
            merge_slashes: bool, decode: bool,
        ) {
            let encoded_slashes = if decode { EncodedSlashes::Decode } else { EncodedSlashes::Keep };
            let policy = PathPolicy { merge_slashes, encoded_slashes };
            let path = format!("/{}", pieces.join("/"));
            if let Ok(once) = normalised(&path, policy) {
                prop_assert_eq!(normalised(&once, policy), Ok(once.clone()));
                prop_assert!(once.split('/').all(|segment| dots(segment.as_bytes()).is_none()));
                prop_assert!(!merge_slashes || !once.contains("//"));
                prop_assert!(!decode || !once.to_ascii_lowercase().contains("%2f"));
            }
        }
    }
}
