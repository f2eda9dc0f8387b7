//! TLS on both sides, by rustls: certificates by SNI for clients, verification of endpoints.

use std::sync::{Arc, OnceLock};

use rustc_hash::FxHashMap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, version};
use weirgate_shared::snapshot::{Certificate, ListenerTls, PoolTls, SnapshotError};

use crate::tickets::Tickets;

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

/// Certificates by the names that they hold.
#[derive(Debug)]
struct Certificates {
    exact: FxHashMap<String, Arc<CertifiedKey>>,
    /// `*.x` by `x`: exactly one label more (RFC 6125 §6.4.3).
    wildcard: FxHashMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Certificates {
    /// The exact name, then a wildcard, then the first certificate.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wildcard = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(wildcard)
        });
        named.or(self.default.as_ref()).cloned()
    }
}

/// The server side of a listener. Errors carry the path inside `tls`.
pub(crate) fn server(settings: &ListenerTls, secret: &str) -> Result<Arc<ServerConfig>, SnapshotError> {
    let mut certificates = Certificates { exact: FxHashMap::default(), wildcard: FxHashMap::default(), default: None };
    for (index, certificate) in settings.certificates.iter().enumerate() {
        let key = Arc::new(certified_key(certificate, index)?);
        for name in names(&key) {
            match name.strip_prefix("*.") {
                Some(parent) => certificates.wildcard.entry(parent.to_owned()).or_insert_with(|| Arc::clone(&key)),
                None => certificates.exact.entry(name).or_insert_with(|| Arc::clone(&key)),
            };
        }
        certificates.default.get_or_insert(key);
    }
    let versions: &[_] =
        if settings.minimum_version == "1.3" { &[&version::TLS13] } else { &[&version::TLS13, &version::TLS12] };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| SnapshotError::value("minimum_version", error))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = settings.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.ticketer = Arc::new(Tickets::new(secret));
    Ok(Arc::new(config))
}

fn certified_key(certificate: &Certificate, index: usize) -> Result<CertifiedKey, SnapshotError> {
    let wrong = |field: &str, message: String| SnapshotError::value(format!("certificates.{index}.{field}"), message);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| wrong("certificate_pem", format!("not a PEM certificate: {error}")))?;
    if chain.is_empty() {
        return Err(wrong("certificate_pem", "no PEM certificate in it".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes())
        .map_err(|error| wrong("key_pem", format!("no PEM private key in it: {error}")))?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| wrong("key_pem", format!("the key cannot be used with its certificate: {error}")))
}

/// The DNS names of a certificate, in lower case.
fn names(key: &CertifiedKey) -> Vec<String> {
    let Some(leaf) = key.cert.first() else { return Vec::new() };
    webpki::EndEntityCert::try_from(leaf)
        .map(|certificate| certificate.valid_dns_names().map(str::to_ascii_lowercase).collect())
        .unwrap_or_default()
}

/// The client side towards a pool, `alpn` best first. Errors carry the path inside `tls`.
pub(crate) fn client(settings: &PoolTls, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, SnapshotError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| SnapshotError::value("", error))?;
    let mut config = if settings.verify {
        builder.with_root_certificates(roots(settings)?).with_no_client_auth()
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnyone)).with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

fn roots(settings: &PoolTls) -> Result<Arc<RootCertStore>, SnapshotError> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let Some(pem) = &settings.ca_pem else {
        return Ok(Arc::clone(SYSTEM.get_or_init(|| {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(store)
        })));
    };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate =
            certificate.map_err(|error| SnapshotError::value("ca_pem", format!("not a PEM certificate: {error}")))?;
        store.add(certificate).map_err(|error| SnapshotError::value("ca_pem", error))?;
    }
    if store.is_empty() { Err(SnapshotError::value("ca_pem", "no PEM certificate in it")) } else { Ok(Arc::new(store)) }
}

/// The name that an endpoint has to prove.
pub(crate) fn server_name(settings: &PoolTls, host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(settings.server_name.clone().unwrap_or_else(|| host.to_owned())).ok()
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
