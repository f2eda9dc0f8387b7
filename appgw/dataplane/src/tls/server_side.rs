//! TLS towards clients: a listener's certificates, and whose certificates clients must show.

use std::sync::Arc;

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ServerConfig, version};
use weirgate_shared::snapshot::{ClientAuth, ClientAuthMode, ListenerTls, SnapshotError};
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode;

use super::certificates::Certificates;
use super::{Hash, Kept, authorities, hash_of, provider};
use crate::tickets::Tickets;

/// The server side of a listener; the one before when nothing has changed. Errors carry the path inside `tls`.
pub(crate) fn server(
    settings: &ListenerTls,
    secret: &str,
    kept: &mut Kept,
) -> Result<Arc<ServerConfig>, SnapshotError> {
    let hash = hash_of_server(settings, secret, kept);
    if let Some(server) = kept.servers.get(&hash) {
        return Ok(Arc::clone(server));
    }
    let certificates = Certificates::build(&settings.certificates, kept)?;
    let versions: &[_] =
        if settings.minimum_version == "1.3" { &[&version::TLS13] } else { &[&version::TLS13, &version::TLS12] };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| SnapshotError::value("minimum_version", error))?
        .with_client_cert_verifier(verifier(settings.client.as_ref())?)
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = settings.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.ticketer = Arc::new(Tickets::new(secret, rules(settings.client.as_ref()).as_ref()));
    if let Some(log) = &kept.key_log {
        config.key_log = Arc::clone(log) as Arc<dyn rustls::KeyLog>;
    }
    let config = Arc::new(config);
    kept.servers.insert(hash, Arc::clone(&config));
    Ok(config)
}

/// Everything that a server is made of.
fn hash_of_server(settings: &ListenerTls, secret: &str, kept: &Kept) -> Hash {
    let settings = serde_json::to_vec(settings).unwrap_or_default();
    let key_log = kept.key_log.as_ref().map_or("", |log| log.path());
    hash_of([settings.as_slice(), secret.as_bytes(), key_log.as_bytes()])
}

/// What is asked of clients, as a hash: a ticket resumes only under the rules that it was made under.
fn rules(client: Option<&ClientAuth>) -> Option<Hash> {
    let client = client?;
    let mode: &[u8] = match client.mode {
        ClientAuthMode::Request => b"request",
        ClientAuthMode::Require => b"require",
    };
    let lists = client.crl_pem.iter().map(String::as_bytes);
    Some(hash_of([client.ca_pem.as_bytes(), mode].into_iter().chain(lists)))
}

fn verifier(client: Option<&ClientAuth>) -> Result<Arc<dyn ClientCertVerifier>, SnapshotError> {
    let Some(client) = client else { return Ok(WebPkiClientVerifier::no_client_auth()) };
    let roots = authorities(&client.ca_pem, "client.ca_pem")?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .with_crls(revocation_lists(client)?)
        // An authority without a list revokes nothing: else one list would shut out all others.
        .allow_unknown_revocation_status();
    if client.mode == ClientAuthMode::Request {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| SnapshotError::value("client.crl_pem", error))
}

fn revocation_lists(client: &ClientAuth) -> Result<Vec<CertificateRevocationListDer<'static>>, SnapshotError> {
    let mut all = Vec::new();
    for (index, pem) in client.crl_pem.iter().enumerate() {
        let wrong = |message: String| SnapshotError::value(format!("client.crl_pem.{index}"), message);
        let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| wrong(format!("not a PEM revocation list: {error}")))?;
        if lists.is_empty() {
            return Err(wrong("no PEM revocation list in it".into()));
        }
        all.extend(lists);
    }
    // The first list of an authority is the one that is asked: the newest.
    all.sort_by_cached_key(|list| std::cmp::Reverse(issued_at(list)));
    Ok(all)
}

/// When a list was issued, in seconds since 1970; 0 = it does not say so that it could be read.
fn issued_at(list: &CertificateRevocationListDer<'_>) -> u64 {
    CertificateList::<Rfc5280>::from_der(list.as_ref())
        .map_or(0, |list| list.tbs_cert_list.this_update.to_unix_duration().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::test_data::{AUTHORITY, ECDSA, OTHER_AUTHORITY, REVOKED};
    use weirgate_shared::snapshot::Certificate;

    fn settings(client: Option<ClientAuth>) -> ListenerTls {
        let (certificate_pem, key_pem) = (ECDSA.0.to_owned(), ECDSA.1.to_owned());
        ListenerTls {
            certificates: vec![Certificate { certificate_pem, key_pem, ocsp: None, entry: 0, file: None }],
            minimum_version: "1.2".into(),
            alpn: vec!["h2".into()],
            client,
        }
    }

    fn asks(ca: &str, mode: ClientAuthMode, lists: &[&str]) -> ClientAuth {
        let crl_pem = lists.iter().map(|&list| list.to_owned()).collect();
        ClientAuth { ca_pem: ca.into(), mode, crl_pem }
    }

    #[test]
    fn a_server_is_kept_while_nothing_of_it_changes() {
        let mut kept = Kept::default();
        let first = server(&settings(None), "secret", &mut kept).expect("good");
        assert!(Arc::ptr_eq(&first, &server(&settings(None), "secret", &mut kept).expect("good")));
        assert!(!Arc::ptr_eq(&first, &server(&settings(None), "other", &mut kept).expect("good")));
        let other = ListenerTls { alpn: vec![], ..settings(None) };
        assert!(!Arc::ptr_eq(&first, &server(&other, "secret", &mut kept).expect("good")));
        kept.forget_unused();
        assert_eq!(kept.servers.len(), 1);
    }

    #[test]
    fn there_is_no_early_data() {
        let config = server(&settings(None), "secret", &mut Kept::default()).expect("good");
        assert_eq!(config.max_early_data_size, 0);
        assert!(!config.send_half_rtt_data);
    }

    #[test]
    fn a_ticket_is_good_under_the_rules_that_it_was_made_under_only() {
        let ticketer = |client: Option<ClientAuth>| {
            let config = server(&settings(client), "secret", &mut Kept::default()).expect("good");
            Arc::clone(&config.ticketer)
        };
        let (request, require) = (ClientAuthMode::Request, ClientAuthMode::Require);
        let rules = || {
            [
                None,
                Some(asks(AUTHORITY, request, &[])),
                Some(asks(AUTHORITY, require, &[])),
                Some(asks(OTHER_AUTHORITY, require, &[])),
                Some(asks(AUTHORITY, require, &[REVOKED])),
            ]
        };
        for (made, client) in rules().into_iter().enumerate() {
            let ticket = ticketer(client).encrypt(b"session").expect("seals");
            for (used, client) in rules().into_iter().enumerate() {
                assert_eq!(ticketer(client).decrypt(&ticket).is_some(), made == used, "{made} at {used}");
            }
        }
    }

    #[test]
    fn what_is_no_authority_or_list_is_refused_with_its_place() {
        let place = |client: ClientAuth| {
            let error = server(&settings(Some(client)), "", &mut Kept::default()).expect_err("refused");
            error.to_string().split(':').next().map(str::to_owned)
        };
        let require = ClientAuthMode::Require;
        assert_eq!(place(asks("", require, &[])).as_deref(), Some("client.ca_pem"));
        assert_eq!(place(asks(REVOKED, require, &[])).as_deref(), Some("client.ca_pem"));
        assert_eq!(place(asks(AUTHORITY, require, &[REVOKED, AUTHORITY])).as_deref(), Some("client.crl_pem.1"));
        let bad = "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
        assert_eq!(place(asks(AUTHORITY, require, &[bad])).as_deref(), Some("client.crl_pem"));
    }
}
