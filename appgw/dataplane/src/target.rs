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

/// Whether a path has dot segments, plain or encoded.
pub(crate) fn needs_normalising(path: &[u8]) -> bool {
    memchr::memmem::find(path, b"/.").is_some()
        || memchr::memmem::find(path, b"%2").is_some_and(|_| has_encoded_dot(path))
}

fn has_encoded_dot(path: &[u8]) -> bool {
    path.windows(3).any(|window| window[0] == b'%' && window[1] == b'2' && window[2] | 0x20 == b'e')
}

/// Remove dot segments (RFC 3986 §5.2.4), where `%2e` is a dot, so that what is matched is what is
/// forwarded. A path that climbs above the root is refused.
pub(crate) fn normalise(path: &[u8]) -> Result<Vec<u8>, Reason> {
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
            assert_eq!(
                normalise(path.as_bytes()).map(|p| String::from_utf8_lossy(&p).into_owned()),
                Ok(wanted.to_owned()),
                "{path}"
            );
        }
        assert_eq!(normalise(b"/a/../.."), Err(Reason::BadRequestTarget));
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
            pieces in prop::collection::vec(prop::sample::select(vec!["a", "..", ".", "%2e", "%2E.", "", "b.c"]), 1..8),
        ) {
            let path = format!("/{}", pieces.join("/"));
            if let Ok(once) = normalise(path.as_bytes()) {
                prop_assert_eq!(normalise(&once), Ok(once.clone()));
                prop_assert!(once.split(|&b| b == b'/').all(|segment| dots(segment).is_none()));
            }
        }
    }
}
