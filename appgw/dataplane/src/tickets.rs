//! TLS session tickets that every gateway of the node can read, whichever one the edge picks next.
//!
//! The keys follow from the node's secret and the time, so nothing has to be handed around; each
//! period has its own key, and a ticket is good in the period after its own too (RFC 5077 §5.5).
//!
//! A session remembers the client's certificate, and nobody verifies it again when it is resumed. So a
//! listener that asks for certificates has keys of its own, which change with whom it lets in.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use rustls::server::ProducesTickets;
use weirgate_shared::clock::wall_ms;

const PERIOD_S: u64 = 6 * 3600;
const EPOCH_BYTES: usize = 8;

/// Makes and reads tickets.
#[derive(Debug)]
pub(crate) struct Tickets {
    secret: hmac::Key,
}

impl Tickets {
    /// With the node's secret, and the hash of what is asked of clients where they are asked for certificates.
    pub(crate) fn new(secret: &str, rules: Option<&[u8; 32]>) -> Self {
        let node = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let Some(rules) = rules else { return Self { secret: node } };
        let own = hmac::sign(&node, &[&b"weirgate tls tickets under rules "[..], rules].concat());
        Self { secret: hmac::Key::new(hmac::HMAC_SHA256, own.as_ref()) }
    }

    fn key(&self, epoch: u64) -> Option<LessSafeKey> {
        let tag = hmac::sign(&self.secret, format!("weirgate tls tickets {epoch}").as_bytes());
        Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, tag.as_ref()).ok()?))
    }
}

fn current_epoch() -> u64 {
    wall_ms() / 1000 / PERIOD_S
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        PERIOD_S as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let epoch = current_epoch();
        let mut nonce = [0u8; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        self.key(epoch)?.seal_in_place_append_tag(unique, Aad::from(epoch.to_be_bytes()), &mut sealed).ok()?;
        Some([&epoch.to_be_bytes()[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (epoch, rest) = ticket.split_at_checked(EPOCH_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let epoch = u64::from_be_bytes(epoch.try_into().ok()?);
        if !(current_epoch().saturating_sub(1)..=current_epoch()).contains(&epoch) {
            return None;
        }
        let mut plain = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = self.key(epoch)?.open_in_place(nonce, Aad::from(epoch.to_be_bytes()), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_gateway_with_the_secret_reads_the_ticket_and_nobody_else() {
        let ticket = Tickets::new("secret", None).encrypt(b"state").expect("seals");
        assert_eq!(Tickets::new("secret", None).decrypt(&ticket), Some(b"state".to_vec()));
        assert_eq!(Tickets::new("other", None).decrypt(&ticket), None);
        for index in 0..ticket.len() {
            let mut bent = ticket.clone();
            bent[index] ^= 1;
            assert_eq!(Tickets::new("secret", None).decrypt(&bent), None);
            assert_eq!(Tickets::new("secret", None).decrypt(&ticket[..index]), None);
        }
    }

    #[test]
    fn rules_have_keys_of_their_own() {
        let rules = [None, Some(&[1; 32]), Some(&[2; 32])];
        for made in rules {
            let ticket = Tickets::new("secret", made).encrypt(b"state").expect("seals");
            for used in rules {
                assert_eq!(Tickets::new("secret", used).decrypt(&ticket).is_some(), made == used);
            }
        }
    }
}
