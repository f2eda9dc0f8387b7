//! The certificates of a listener: by the name that a client asks for, and by what it can verify.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustc_hash::FxHashMap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use weirgate_shared::snapshot::{Certificate, SnapshotError};

use super::{Kept, hash_of, provider};

/// Certificates for one name, the preferred kind of key first.
type Candidates = Vec<Arc<CertifiedKey>>;

/// Certificates by the names that they hold.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    exact: FxHashMap<String, Candidates>,
    /// `*.x` by `x`: exactly one label more (RFC 6125 §6.4.3).
    wildcard: FxHashMap<String, Candidates>,
    /// The first certificate, and those with another kind of key for the first of its names.
    default: Candidates,
}

impl Certificates {
    /// Read all of them; errors carry the path inside `tls`.
    pub(super) fn build(wanted: &[Certificate], kept: &mut Kept) -> Result<Self, SnapshotError> {
        let mut all = Self::default();
        let mut default_name = None;
        for certificate in wanted {
            let key = kept_key(certificate, kept)
                .map_err(|error| below(&format!("certificates.{}", certificate.entry), certificate, error))?;
            let names = names(&key);
            if all.default.is_empty() {
                all.default.push(Arc::clone(&key));
                default_name = names.first().cloned();
            } else if default_name.as_ref().is_some_and(|name| names.contains(name)) {
                all.default.push(Arc::clone(&key));
            }
            for name in names {
                let candidates = match name.strip_prefix("*.") {
                    Some(parent) => all.wildcard.entry(parent.to_owned()).or_default(),
                    None => all.exact.entry(name).or_default(),
                };
                candidates.push(Arc::clone(&key));
            }
        }
        let lists = all.exact.values_mut().chain(all.wildcard.values_mut()).chain([&mut all.default]);
        // Stable: of two of a kind the one that stands first in the configuration.
        lists.for_each(|candidates| candidates.sort_by_key(|key| rank(key)));
        Ok(all)
    }

    /// The exact name, then a wildcard, then the default.
    fn candidates(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wildcard = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(wildcard)
        });
        named.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        usable(self.candidates(hello.server_name()), hello.signature_schemes())
    }
}

/// The first that the client can verify; if there is none, the handshake says why with the first.
fn usable(candidates: &[Arc<CertifiedKey>], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
    let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
    candidates.iter().find(fits).or_else(|| candidates.first()).cloned()
}

/// ECDSA is shorter and faster to sign; RSA is what every client knows.
fn rank(key: &CertifiedKey) -> u8 {
    match key.key.algorithm() {
        SignatureAlgorithm::ECDSA => 0,
        SignatureAlgorithm::ED25519 => 1,
        _ => 2,
    }
}

/// A certificate with its key, parsed unless the snapshot before had it, too.
fn kept_key(certificate: &Certificate, kept: &mut Kept) -> Result<Arc<CertifiedKey>, SnapshotError> {
    let ocsp = certificate.ocsp.as_deref().unwrap_or_default();
    let parts = [certificate.certificate_pem.as_str(), &certificate.key_pem, ocsp];
    let hash = hash_of(parts.map(str::as_bytes));
    if let Some(key) = kept.certificates.get(&hash) {
        return Ok(Arc::clone(key));
    }
    let key = Arc::new(certified_key(certificate)?);
    kept.certificates.insert(hash, Arc::clone(&key));
    Ok(key)
}

/// Parse a certificate with its key. Errors carry the field.
pub(super) fn certified_key(certificate: &Certificate) -> Result<CertifiedKey, SnapshotError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| SnapshotError::value("certificate_pem", format!("not a PEM certificate: {error}")))?;
    if chain.is_empty() {
        return Err(SnapshotError::value("certificate_pem", "no PEM certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes())
        .map_err(|error| SnapshotError::value("key_pem", format!("no PEM private key in it: {error}")))?;
    let mut key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
        SnapshotError::value("key_pem", format!("the key cannot be used with its certificate: {error}"))
    })?;
    if let Some(ocsp) = &certificate.ocsp {
        let response = STANDARD.decode(ocsp).map_err(|error| SnapshotError::value("ocsp", error))?;
        key.ocsp = Some(response);
    }
    Ok(key)
}

/// Put the path in front of an error's own, and the file in front of its message.
fn below(parent: &str, certificate: &Certificate, error: SnapshotError) -> SnapshotError {
    match error {
        SnapshotError::Value { path, message } => {
            let file = certificate.file.as_ref().map(|file| format!("{file}: ")).unwrap_or_default();
            SnapshotError::value(format!("{parent}.{path}"), format!("{file}{message}"))
        }
        other => other,
    }
}

/// The DNS names of a certificate, in lower case.
fn names(key: &CertifiedKey) -> Vec<String> {
    let Some(leaf) = key.cert.first() else { return Vec::new() };
    webpki::EndEntityCert::try_from(leaf)
        .map(|certificate| certificate.valid_dns_names().map(str::to_ascii_lowercase).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::test_data::{ECDSA, OTHER, RSA};

    const RSA_ONLY: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];
    const BOTH: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256];

    fn certificate((certificate_pem, key_pem): (&str, &str)) -> Certificate {
        let (certificate_pem, key_pem) = (certificate_pem.to_owned(), key_pem.to_owned());
        Certificate { certificate_pem, key_pem, ocsp: None, entry: 0, file: None }
    }

    fn algorithm(all: &Certificates, name: Option<&str>, schemes: &[SignatureScheme]) -> SignatureAlgorithm {
        usable(all.candidates(name), schemes).expect("there is one").key.algorithm()
    }

    #[test]
    fn a_client_gets_the_key_that_it_can_verify_ecdsa_first() {
        let wanted = [certificate(RSA), certificate(ECDSA), certificate(OTHER)];
        let all = Certificates::build(&wanted, &mut Kept::default()).expect("good");
        for name in [Some("both.test"), Some("BOTH.test"), Some("x.wild.test"), Some("unknown.test"), None] {
            assert_eq!(algorithm(&all, name, BOTH), SignatureAlgorithm::ECDSA, "{name:?}");
            assert_eq!(algorithm(&all, name, RSA_ONLY), SignatureAlgorithm::RSA, "{name:?}");
        }
        // One kind only: it is shown, whatever the client says.
        assert_eq!(algorithm(&all, Some("other.test"), RSA_ONLY), SignatureAlgorithm::ECDSA);
        assert_eq!(all.default.len(), 2);
    }

    #[test]
    fn a_certificate_is_parsed_once_and_forgotten_with_its_last_user() {
        let mut kept = Kept::default();
        let first = Certificates::build(&[certificate(ECDSA)], &mut kept).expect("good");
        let second = Certificates::build(&[certificate(OTHER), certificate(ECDSA)], &mut kept).expect("good");
        assert!(Arc::ptr_eq(&first.exact["both.test"][0], &second.exact["both.test"][0]));
        let mut stapled = certificate(ECDSA);
        stapled.ocsp = Some("MAMKAQE=".into());
        let third = Certificates::build(&[stapled], &mut kept).expect("good");
        assert!(!Arc::ptr_eq(&first.default[0], &third.default[0]));
        assert_eq!(third.default[0].ocsp.as_deref(), Some(&[0x30, 3, 10, 1, 1][..]));
        kept.forget_unused();
        assert_eq!(kept.certificates.len(), 3);
        drop((first, third));
        kept.forget_unused();
        assert_eq!(kept.certificates.len(), 2);
        drop(second);
        kept.forget_unused();
        assert!(kept.certificates.is_empty());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_with_its_place() {
        let mut mixed = certificate((ECDSA.0, OTHER.1));
        (mixed.entry, mixed.file) = (4, Some("certs/a.pem".into()));
        let error = Certificates::build(&[mixed], &mut Kept::default()).expect_err("refused").to_string();
        assert!(error.starts_with("certificates.4.key_pem: certs/a.pem: the key cannot be used"), "{error}");
    }
}
