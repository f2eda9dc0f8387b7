//! What Weirgate itself answers: errors with their reason, fixed responses, redirects.

use weirgate_shared::json::{push_string, push_u64};
use weirgate_shared::reason::Reason;

use crate::http1::phrase;
use crate::message::{Framing, HeaderId, RequestHead, ResponseHead};

/// The kind of page that the client prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Text,
    Html,
    Json,
}

/// An error answer: head and body. The body says the status, the reason and the request's id.
pub(crate) fn error(
    head: &mut ResponseHead,
    request: &RequestHead,
    reason: Reason,
    request_id: &[u8],
    retry_after: Option<u64>,
) -> Vec<u8> {
    let status = reason.status();
    head.clear();
    head.status = status;
    let (kind, body) = page(preferred(request), status, reason, request_id);
    head.headers.push(b"Content-Type", kind.as_bytes());
    head.headers.push(b"Cache-Control", b"no-store");
    head.headers.push(b"weirgate-reason", reason.code().as_bytes());
    if !request_id.is_empty() {
        head.headers.push(b"X-Request-Id", request_id);
    }
    if let Some(seconds) = retry_after {
        head.headers.push(b"Retry-After", seconds.to_string().as_bytes());
    }
    if status == 405 {
        head.headers.push(b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    }
    head.framing = Framing::Length(body.len() as u64);
    body
}

fn page(page: Page, status: u16, reason: Reason, request_id: &[u8]) -> (&'static str, Vec<u8>) {
    let title = phrase(status);
    match page {
        Page::Text => {
            let mut body = format!("{status} {title}\nreason: {}\n{}\n", reason.code(), reason.text()).into_bytes();
            if !request_id.is_empty() {
                body.extend_from_slice(b"request: ");
                body.extend_from_slice(request_id);
                body.push(b'\n');
            }
            ("text/plain; charset=utf-8", body)
        }
        Page::Html => {
            let id: String = String::from_utf8_lossy(request_id)
                .chars()
                .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
                .collect();
            let body = format!(
                "<!doctype html><html lang=en><meta charset=utf-8><title>{status} {title}</title>\
                 <h1>{status} {title}</h1><p>{}<p><small>reason <code>{}</code>, request <code>{id}</code></small></html>\n",
                reason.text(),
                reason.code(),
            );
            ("text/html; charset=utf-8", body.into_bytes())
        }
        Page::Json => {
            let mut body = b"{\"status\":".to_vec();
            push_u64(&mut body, u64::from(status));
            for (name, value) in [
                ("title", title.as_bytes()),
                ("reason", reason.code().as_bytes()),
                ("detail", reason.text().as_bytes()),
                ("request_id", request_id),
            ] {
                body.extend_from_slice(format!(",\"{name}\":").as_bytes());
                push_string(&mut body, value);
            }
            body.extend_from_slice(b"}\n");
            ("application/json", body)
        }
    }
}

/// The first of the kinds that we have in the client's Accept (RFC 9110 §12.5.1); text when it does not say.
fn preferred(request: &RequestHead) -> Page {
    let accept = request.headers.get(HeaderId::Accept).unwrap_or_default().to_ascii_lowercase();
    let kinds = [(&b"text/html"[..], Page::Html), (b"application/json", Page::Json), (b"text/plain", Page::Text)];
    let position = |kind: &[u8]| memchr::memmem::find(&accept, kind);
    kinds
        .into_iter()
        .filter_map(|(kind, page)| Some((position(kind)?, page)))
        .min_by_key(|(position, _)| *position)
        .map_or(Page::Text, |(_, page)| page)
}

/// Fill `head` with a configured response; its body is what the route says.
pub(crate) fn respond(head: &mut ResponseHead, status: u16, fields: &[(String, String)], body: &str) {
    head.clear();
    head.status = status;
    for (name, value) in fields {
        head.headers.push(name.as_bytes(), value.as_bytes());
    }
    if !body.is_empty() && !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        head.headers.push(b"Content-Type", b"text/plain; charset=utf-8");
    }
    head.framing = if matches!(status, 204 | 304) { Framing::None } else { Framing::Length(body.len() as u64) };
}

/// Fill `head` with a redirect; `{scheme} {host} {path} {query}` in `location` are the request's own.
pub(crate) fn redirect(head: &mut ResponseHead, request: &RequestHead, status: u16, location: &str, scheme: &str) {
    let query = request.query().map(|query| [b"?", query].concat()).unwrap_or_default();
    let host = request.authority();
    let mut out = Vec::new();
    let mut rest = location;
    while let Some(at) = rest.find('{') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        let parts: [(&str, &[u8]); 4] =
            [("{scheme}", scheme.as_bytes()), ("{host}", host), ("{path}", request.path()), ("{query}", &query)];
        if let Some((name, value)) = parts.into_iter().find(|(name, _)| rest.starts_with(name)) {
            out.extend_from_slice(value);
            rest = &rest[name.len()..];
        } else {
            out.push(b'{');
            rest = &rest[1..];
        }
    }
    out.extend_from_slice(rest.as_bytes());
    head.clear();
    head.status = status;
    head.headers.push(b"Location", &out);
    head.framing = Framing::Length(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(accept: &str) -> RequestHead {
        let mut head = RequestHead::default();
        head.headers.push(b"Accept", accept.as_bytes());
        head
    }

    #[test]
    fn the_page_is_what_the_client_accepts_and_says_why() {
        let mut head = ResponseHead::default();
        for (accept, kind) in [
            ("text/html,application/xhtml+xml", "text/html; charset=utf-8"),
            ("application/json", "application/json"),
            ("*/*", "text/plain; charset=utf-8"),
        ] {
            let body = error(&mut head, &asking(accept), Reason::NoRoute, b"<id>", None);
            assert_eq!(head.headers.values(b"content-type").next(), Some(kind.as_bytes()));
            assert_eq!(head.headers.values(b"weirgate-reason").next(), Some(&b"no_route"[..]));
            assert!(memchr::memmem::find(&body, b"no_route").is_some());
            assert!(kind != "text/html; charset=utf-8" || memchr::memmem::find(&body, b"<id>").is_none());
        }
    }

    #[test]
    fn a_redirect_takes_its_parts_from_the_request() {
        let mut request = RequestHead::default();
        request.authority = request.headers.store(b"a.example");
        request.path = request.headers.store(b"/x");
        request.query = Some(request.headers.store(b"q=1"));
        let mut head = ResponseHead::default();
        redirect(&mut head, &request, 308, "https://{host}/new{path}{query}#{other}", "http");
        assert_eq!(head.headers.values(b"location").next(), Some(&b"https://a.example/new/x?q=1#{other}"[..]));
        assert_eq!(head.status, 308);
    }
}
