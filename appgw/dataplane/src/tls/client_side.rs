//! TLS towards endpoints: whom to trust, what to show them, and which keys they must have.

use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, version};
use weirgate_shared::snapshot::{PoolTls, SnapshotError};

use super::certificates::certified_key;
use super::{Hash, authorities, provider, sha256};

/// The client side towards a pool, which offers the protocols of `alpn`. Errors carry the path inside `tls`.
pub(crate) fn client(settings: &PoolTls, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, SnapshotError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| SnapshotError::value("", error))?;
    let builder = if settings.verify && settings.pins.is_empty() {
        builder.with_root_certificates(roots(settings)?)
    } else {
        builder.dangerous().with_custom_certificate_verifier(verifier(settings)?)
    };
    let mut config = match &settings.certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let key = certified_key(certificate).map_err(|error| match error {
                SnapshotError::Value { path, message } => SnapshotError::value(format!("certificate.{path}"), message),
                other => other,
            })?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The name that an endpoint has to prove.
pub(crate) fn server_name(settings: &PoolTls, host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(settings.server_name.clone().unwrap_or_else(|| host.to_owned())).ok()
}

/// What is verified where it is not the usual.
fn verifier(settings: &PoolTls) -> Result<Arc<dyn ServerCertVerifier>, SnapshotError> {
    let usual: Arc<dyn ServerCertVerifier> = if settings.verify {
        let verifier = WebPkiServerVerifier::builder_with_provider(roots(settings)?, provider());
        verifier.build().map_err(|error| SnapshotError::value("ca_pem", error))?
    } else {
        Arc::new(AcceptAnyone)
    };
    if settings.pins.is_empty() {
        return Ok(usual);
    }
    let pins = settings.pins.iter().enumerate().map(|(index, pin)| {
        let bytes = STANDARD.decode(pin).ok().and_then(|bytes| Hash::try_from(bytes).ok());
        bytes.ok_or_else(|| SnapshotError::value(format!("pins.{index}"), "not the base64 of a SHA-256 hash"))
    });
    Ok(Arc::new(Pinned { usual, pins: pins.collect::<Result<_, _>>()? }))
}

fn roots(settings: &PoolTls) -> Result<Arc<RootCertStore>, SnapshotError> {
    settings.ca_pem.as_ref().map_or_else(|| Ok(system_roots()), |pem| authorities(pem, "ca_pem"))
}

fn system_roots() -> Arc<RootCertStore> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    Arc::clone(SYSTEM.get_or_init(|| {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(store)
    }))
}

/// `pins`: besides all else, the endpoint's key must be one of these.
#[derive(Debug)]
struct Pinned {
    usual: Arc<dyn ServerCertVerifier>,
    /// SHA-256 of the `SubjectPublicKeyInfo` in DER form (RFC 7469 §2.4).
    pins: Vec<Hash>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let certificate = webpki::EndEntityCert::try_from(end_entity)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if self.pins.contains(&sha256(certificate.subject_public_key_info().as_ref())) {
            return Ok(verified);
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// `danger_skip_verify`: the bytes are encrypted, but to whom is not known.
#[derive(Debug)]
struct AcceptAnyone;

impl ServerCertVerifier for AcceptAnyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::test_data::{AUTHORITY, ECDSA, LEAF, LEAF_PIN, OTHER};
    use rustls::pki_types::pem::PemObject;
    use weirgate_shared::snapshot::Certificate;

    fn settings(pins: &[&str]) -> PoolTls {
        PoolTls {
            server_name: None,
            ca_pem: Some(AUTHORITY.into()),
            verify: true,
            certificate: None,
            pins: pins.iter().map(|&pin| pin.to_owned()).collect(),
        }
    }

    fn judged(settings: &PoolTls, name: &str) -> Result<(), rustls::Error> {
        let certificate = CertificateDer::from_pem_slice(LEAF.as_bytes()).expect("a certificate");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let verifier = verifier(settings).expect("good");
        verifier.verify_server_cert(&certificate, &[], &name, &[], UnixTime::now()).map(drop)
    }

    #[test]
    fn a_pin_is_wanted_besides_all_else() {
        let other = STANDARD.encode([7; 32]);
        assert!(judged(&settings(&[]), "leaf.test").is_ok());
        assert!(judged(&settings(&[&other, LEAF_PIN]), "leaf.test").is_ok());
        assert_eq!(
            judged(&settings(&[&other]), "leaf.test"),
            Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        );
        assert!(judged(&settings(&[LEAF_PIN]), "another.test").is_err());
        // Without the usual verification the pin still holds.
        let blind = |pins: &[&str]| PoolTls { verify: false, ..settings(pins) };
        assert!(judged(&blind(&[LEAF_PIN]), "another.test").is_ok());
        assert!(judged(&blind(&[&other]), "another.test").is_err());
    }

    #[test]
    fn the_protocols_are_the_callers_and_a_certificate_is_shown() {
        let plain = client(&settings(&[]), &[b"h2", b"http/1.1"]).expect("good");
        assert_eq!(plain.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert!(!plain.client_auth_cert_resolver.has_certs());
        let own = |key_pem: &str| {
            let (certificate_pem, key_pem) = (ECDSA.0.to_owned(), key_pem.to_owned());
            Some(Certificate { certificate_pem, key_pem, ocsp: None, entry: 0, file: None })
        };
        let shown = client(&PoolTls { certificate: own(ECDSA.1), ..settings(&[LEAF_PIN]) }, &[]).expect("good");
        assert!(shown.client_auth_cert_resolver.has_certs());
        let error = client(&PoolTls { certificate: own(OTHER.1), ..settings(&[]) }, &[]).expect_err("refused");
        assert!(error.to_string().starts_with("certificate.key_pem: "), "{error}");
        let error = client(&settings(&["AAAA"]), &[]).expect_err("refused");
        assert!(error.to_string().starts_with("pins.0: "), "{error}");
    }
}
