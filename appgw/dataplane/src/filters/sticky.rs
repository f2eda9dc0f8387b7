//! `sticky`: a signed cookie names the endpoint that a session belongs to.
//!
//! The cookie holds the endpoint's identity, never a position, so that scaling a pool moves nobody;
//! it is signed (HMAC-SHA-256 over pool, cookie name and identity) so that clients cannot choose.

use aws_lc_rs::{constant_time, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use weirgate_shared::endpoint::Health;
use weirgate_shared::reason::Reason;
use weirgate_shared::snapshot::SnapshotError;

use super::{Filter, RequestContext, ResponseContext, Surroundings};
use crate::routing::cookie_values;

/// Bytes of the signature that the cookie carries.
const SIGNATURE_BYTES: usize = 18;

pub(super) struct Sticky {
    name: Vec<u8>,
    /// One cookie value a member of the pool, in their order.
    values: Vec<Vec<u8>>,
    attributes: String,
}

impl Sticky {
    pub(super) fn new(
        name: &str,
        max_age_ms: u64,
        secure: bool,
        path: &str,
        around: &Surroundings<'_>,
    ) -> Result<Self, SnapshotError> {
        let pool = around.pool.ok_or_else(|| SnapshotError::value("filters", "sticky needs a route with a pool"))?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, around.cookie_secret.as_bytes());
        let value = |id: &str| {
            let signed = format!("{}\0{name}\0{id}", pool.settings.name);
            let tag = hmac::sign(&key, signed.as_bytes());
            format!("{id}.{}", URL_SAFE_NO_PAD.encode(&tag.as_ref()[..SIGNATURE_BYTES])).into_bytes()
        };
        let mut attributes = format!("; Path={path}; HttpOnly; SameSite=Lax");
        if max_age_ms != 0 {
            attributes.push_str("; Max-Age=");
            attributes.push_str(&(max_age_ms / 1000).to_string());
        }
        if secure {
            attributes += "; Secure";
        }
        let values = pool.members.iter().map(|member| value(&member.endpoint.id)).collect();
        Ok(Self { name: name.as_bytes().to_vec(), values, attributes })
    }
}

impl Filter for Sticky {
    /// A valid cookie of an endpoint that still serves is followed, even when that gets no new sessions.
    fn request(&self, context: &mut RequestContext<'_>) -> Result<(), Reason> {
        let Some(pool) = context.pool else { return Ok(()) };
        context.preferred = cookie_values(context.head, &self.name).find_map(|presented| {
            let index = self
                .values
                .iter()
                .position(|value| constant_time::verify_slices_are_equal(value, presented).is_ok())?;
            let endpoint = &pool.members[index].endpoint;
            (endpoint.health() != Health::Down && !endpoint.closing() && !endpoint.ejected()).then_some(index)
        });
        Ok(())
    }

    fn response(&self, context: &mut ResponseContext<'_>) {
        let Some(chosen) = context.chosen.filter(|chosen| context.preferred != Some(*chosen)) else { return };
        let mut cookie = self.name.clone();
        cookie.push(b'=');
        cookie.extend_from_slice(&self.values[chosen]);
        cookie.extend_from_slice(self.attributes.as_bytes());
        context.head.headers.push(b"Set-Cookie", &cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::filter_request;
    use super::*;
    use crate::message::{RequestHead, ResponseHead};
    use weirgate_shared::endpoint::EndpointRegistry;
    use weirgate_shared::pool::Pool;
    use weirgate_shared::rate_table::RateTable;
    use weirgate_shared::snapshot;

    fn pool(registry: &EndpointRegistry, ids: &[&str]) -> Pool {
        let endpoints = ids
            .iter()
            .map(|id| format!(r#"{{"id":"{id}","address":"10.0.0.1:80","weight":1,"priority":0,"remote":false}}"#))
            .collect::<Vec<_>>()
            .join(",");
        let text = format!(
            r#"{{"name":"shop","balance":{{"policy":"round_robin"}},"endpoints":[{endpoints}],"all_down":"fail_open",
            "minimum_healthy_percent":0,"slow_start_ms":0,"eject":{{"max_percent":50,"early_close_ms":0}},
            "connect_timeout_ms":0,"retries":0,"max_connections":0,"queue_size":0,"queue_timeout_ms":0,"max_idle_connections":0,"idle_timeout_ms":0,"tls":null,"proxy_protocol":"off","health":null}}"#
        );
        Pool::new(&serde_json::from_str::<snapshot::Pool>(&text).expect("valid"), registry)
    }

    fn sticky(pool: &Pool, secret: &str) -> Sticky {
        let around = Surroundings { route: "r", position: 0, pool: Some(pool), cookie_secret: secret };
        Sticky::new("sid", 60_000, true, "/", &around).expect("has a pool")
    }

    fn cookie_of(filter: &Sticky, chosen: usize) -> String {
        let mut head = ResponseHead::default();
        filter.response(&mut ResponseContext { head: &mut head, chosen: Some(chosen), preferred: None });
        let cookie = head.headers.values(b"set-cookie").next().map(|value| String::from_utf8_lossy(value).into_owned());
        cookie.expect("a cookie is set")
    }

    fn preferred(filter: &Sticky, pool: &Pool, cookie: &str) -> Option<usize> {
        let mut head = RequestHead::default();
        head.headers.push(b"Cookie", cookie.as_bytes());
        filter_request(filter, &mut head, 0, &RateTable::create().expect("memfd"), Some(pool)).1
    }

    #[test]
    fn a_session_stays_on_its_endpoint_when_the_pool_is_scaled_and_nobody_can_forge_it() {
        let registry = EndpointRegistry::default();
        let two = pool(&registry, &["a", "b"]);
        let filter = sticky(&two, "secret");
        let cookie = cookie_of(&filter, 1);
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure"), "{cookie}");
        let pair = cookie.split(';').next().expect("a pair").to_owned();
        assert_eq!(preferred(&filter, &two, &pair), Some(1));
        let scaled = pool(&registry, &["x", "y", "b", "a"]);
        assert_eq!(preferred(&sticky(&scaled, "secret"), &scaled, &pair), Some(2));
        assert_eq!(preferred(&sticky(&two, "another"), &two, &pair), None);
        let forged = pair.replace("sid=b.", "sid=a.");
        assert_eq!(preferred(&filter, &two, &forged), None);
        let shrunk = pool(&registry, &["a"]);
        assert_eq!(preferred(&sticky(&shrunk, "secret"), &shrunk, &pair), None);
    }

    #[test]
    fn no_cookie_is_set_again_for_the_same_endpoint() {
        let registry = EndpointRegistry::default();
        let pool = pool(&registry, &["a"]);
        let mut head = ResponseHead::default();
        sticky(&pool, "s").response(&mut ResponseContext { head: &mut head, chosen: Some(0), preferred: Some(0) });
        assert!(head.headers.is_empty());
    }
}
