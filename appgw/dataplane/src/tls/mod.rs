//! TLS on both sides, by rustls: towards clients (`server_side`, with `certificates` and `key_log`), and
//! towards endpoints (`client_side`).
//!
//! `Kept` holds what outlives a snapshot, so that a reload of a thousand certificates of which one has
//! changed parses that one.

mod certificates;
mod client_side;
mod key_log;
mod server_side;

use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{Context, SHA256, digest};
use rustc_hash::FxHashMap;
use rustls::crypto::{CryptoProvider, aws_lc_rs as aws};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use weirgate_shared::snapshot::SnapshotError;

pub(crate) use client_side::{client, server_name};
use key_log::KeyLogWriter;
pub(crate) use server_side::server;

/// SHA-256.
pub(crate) type Hash = [u8; 32];

/// What is kept from one snapshot to the next, by the hash of what it was made of.
#[derive(Default)]
pub(crate) struct Kept {
    certificates: FxHashMap<Hash, Arc<CertifiedKey>>,
    servers: FxHashMap<Hash, Arc<ServerConfig>>,
    key_log: Option<Arc<KeyLogWriter>>,
}

impl Kept {
    /// Where the keys of clients' connections go from now on; what is open stays as it is.
    pub(crate) fn log_keys_to(&mut self, path: Option<&str>) -> std::io::Result<()> {
        if self.key_log.as_ref().map(|log| log.path()) != path {
            self.key_log = path.map(KeyLogWriter::open).transpose()?.map(Arc::new);
        }
        Ok(())
    }

    /// Let go of what nothing uses any more; connections that are open keep what they need.
    pub(crate) fn forget_unused(&mut self) {
        self.servers.retain(|_, server| Arc::strong_count(server) > 1);
        self.certificates.retain(|_, certificate| Arc::strong_count(certificate) > 1);
    }
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws::default_provider())))
}

/// The plain hash of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// A hash of several texts, of which none can be taken for a part of another.
fn hash_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut hash = Hash::default();
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// The authorities in a text; `field` is where an error stands.
fn authorities(pem: &str, field: &str) -> Result<Arc<RootCertStore>, SnapshotError> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate =
            certificate.map_err(|error| SnapshotError::value(field, format!("not a PEM certificate: {error}")))?;
        store.add(certificate).map_err(|error| SnapshotError::value(field, error))?;
    }
    if store.is_empty() { Err(SnapshotError::value(field, "no PEM certificate in it")) } else { Ok(Arc::new(store)) }
}

/// Certificates of the tests, good until 2099; made once, their keys are worth nothing.
#[cfg(test)]
pub(crate) mod test_data {
    /// A certificate and its key, for both.test and *.wild.test, as `ECDSA`.
    pub(crate) const RSA: (&str, &str) = (include_str!("test_data/rsa.pem"), include_str!("test_data/rsa.key"));
    pub(crate) const ECDSA: (&str, &str) = (include_str!("test_data/ecdsa.pem"), include_str!("test_data/ecdsa.key"));
    /// For other.test.
    pub(crate) const OTHER: (&str, &str) = (include_str!("test_data/other.pem"), include_str!("test_data/other.key"));
    /// What has signed the others.
    pub(crate) const AUTHORITY: &str = include_str!("test_data/authority.pem");
    pub(crate) const OTHER_AUTHORITY: &str = include_str!("test_data/other-authority.pem");
    /// The authority's list: it revokes the serial number 7.
    pub(crate) const REVOKED: &str = include_str!("test_data/revoked.crl");
    /// A server's, for leaf.test.
    pub(crate) const LEAF: &str = include_str!("test_data/leaf.pem");
    pub(crate) const LEAF_PIN: &str = "UH2+U6OjNKx6bfZagVXFZOWZyB6SQ3l6GONtMdN51nU=";
    /// A client's, with all that a name can have.
    pub(crate) const CLIENT: &str = include_str!("test_data/client.pem");
    pub(crate) const CLIENT_FINGERPRINT: &str = "86c8a35eb5864b8f4620ad9c814f0749f82b806807312d6b2774df039adf8bda";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_knows_where_a_part_ends() {
        let parts = |parts: &[&str]| hash_of(parts.iter().map(|part| part.as_bytes()));
        assert_eq!(parts(&["ab", "c"]), parts(&["ab", "c"]));
        assert_ne!(parts(&["ab", "c"]), parts(&["a", "bc"]));
        assert_ne!(parts(&["abc"]), parts(&["abc", ""]));
    }

    #[test]
    fn a_post_quantum_exchange_is_offered_first() {
        let groups: Vec<_> = provider().kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups.first(), Some(&rustls::NamedGroup::X25519MLKEM768), "{groups:?}");
        assert!(groups.contains(&rustls::NamedGroup::X25519));
    }
}
