//! The certificate that a client has shown, as logs, routes and applications are told of it.
//!
//! rustls has verified it before anything here is read. All texts are printable ASCII, so that whatever a
//! certificate has in its names can end neither a log line nor a header field.

use std::fmt::Write as _;

use thiserror::Error;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::tls::sha256;

/// A certificate that this build cannot read; its connection is refused rather than half known.
#[derive(Debug, Error)]
#[error("not a certificate that can be read: {0}")]
pub struct Unreadable(String);

/// What is told of a verified certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// RFC 4514, the most specific part first; beyond printable ASCII as `\XX`.
    pub subject: String,
    /// In lower-case hex, without zeros in front.
    pub serial: String,
    /// DNS names among the alternative names.
    pub dns: Vec<String>,
    /// URIs among them, such as SPIFFE IDs.
    pub uris: Vec<String>,
    /// E-mail addresses among them.
    pub emails: Vec<String>,
    /// SHA-256 of the DER form, in lower-case hex.
    pub fingerprint: String,
    /// Seconds since 1970 until which it is good.
    pub not_after_s: u64,
}

impl ClientCertificate {
    /// Read the DER form.
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let text = |error: x509_cert::der::Error| Unreadable(error.to_string());
        let certificate = Certificate::from_der(der).map_err(text)?;
        let tbs = certificate.tbs_certificate();
        let mut facts = Self {
            subject: printable_subject(&tbs.subject().to_string()),
            serial: hex(tbs.serial_number().as_bytes()).trim_start_matches("00").to_owned(),
            fingerprint: hex(&sha256(der)),
            not_after_s: tbs.validity().not_after.to_unix_duration().as_secs(),
            ..Self::default()
        };
        if let Some((_, SubjectAltName(names))) = tbs.get_extension::<SubjectAltName>().map_err(text)? {
            for name in &names {
                match name {
                    GeneralName::DnsName(name) => facts.dns.push(printable_name(name.as_str())),
                    GeneralName::UniformResourceIdentifier(name) => facts.uris.push(printable_name(name.as_str())),
                    GeneralName::Rfc822Name(name) => facts.emails.push(printable_name(name.as_str())),
                    _ => {}
                }
            }
        }
        Ok(facts)
    }

    /// Every alternative name that routes can match.
    pub fn alternative_names(&self) -> impl Iterator<Item = &[u8]> {
        self.dns.iter().chain(&self.uris).chain(&self.emails).map(String::as_bytes)
    }

    /// `X-Forwarded-Client-Cert`, as Envoy writes it; without the line's end.
    pub(crate) fn forwarded(&self) -> String {
        let mut line = format!("X-Forwarded-Client-Cert: Hash={};Subject=\"", self.fingerprint);
        quote_into(&mut line, &self.subject);
        line.push('"');
        let uris = self.uris.iter().map(|uri| ("URI", uri));
        for (key, value) in uris.chain(self.dns.iter().map(|name| ("DNS", name))) {
            line.push(';');
            line.push_str(key);
            line.push('=');
            if value.contains([',', ';', '=', '"', '\\']) {
                line.push('"');
                quote_into(&mut line, value);
                line.push('"');
            } else {
                line.push_str(value);
            }
        }
        line
    }
}

fn quote_into(line: &mut String, value: &str) {
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            line.push('\\');
        }
        line.push(character);
    }
}

/// RFC 4514 §2.4 allows every byte as a pair of hex digits behind a backslash.
fn printable_subject(subject: &str) -> String {
    escaped(subject, '\\', |byte| matches!(byte, b' '..=b'~'))
}

/// As in a URI (RFC 3986 §2.1); a name that is right has nothing to escape.
fn printable_name(name: &str) -> String {
    escaped(name, '%', |byte| matches!(byte, b'!'..=b'~'))
}

fn escaped(text: &str, sign: char, is_plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "{sign}{byte:02X}");
        }
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::test_data::{CLIENT, CLIENT_FINGERPRINT};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    fn client() -> ClientCertificate {
        let der = CertificateDer::from_pem_slice(CLIENT.as_bytes()).expect("a certificate");
        ClientCertificate::read(&der).expect("readable")
    }

    #[test]
    fn the_facts_are_those_of_openssl() {
        let client = client();
        assert_eq!(client.subject, r#"CN=billing \"live\"\, north,OU=M\C3\BCnchen,O=Example"#);
        assert_eq!(client.serial, "a1b2c3d4e5f60718");
        assert_eq!(client.fingerprint, CLIENT_FINGERPRINT);
        assert_eq!(client.dns, ["billing.example", "*.billing.example"]);
        assert_eq!(client.uris, ["spiffe://example/billing", "urn:a;b=c"]);
        assert_eq!(client.emails, ["billing@example.com"]);
        assert_eq!(client.alternative_names().count(), 5);
        assert_eq!(client.not_after_s, 4_070_908_800);
    }

    #[test]
    fn an_application_is_told_in_envoys_form() {
        let wanted = concat!(
            r#";Subject="CN=billing \\\"live\\\"\\, north,OU=M\\C3\\BCnchen,O=Example""#,
            r#";URI=spiffe://example/billing;URI="urn:a;b=c";DNS=billing.example;DNS=*.billing.example"#
        );
        assert_eq!(client().forwarded(), format!("X-Forwarded-Client-Cert: Hash={CLIENT_FINGERPRINT}{wanted}"));
    }

    #[test]
    fn nothing_in_a_name_ends_a_line() {
        assert_eq!(printable_subject("CN=a\r\nX: y"), "CN=a\\0D\\0AX: y");
        assert_eq!(printable_name("spiffe://a b\r\n"), "spiffe://a%20b%0D%0A");
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        assert!(ClientCertificate::read(b"").is_err());
        assert!(ClientCertificate::read(&[0x30, 0]).is_err());
    }
}
