//! Certificates of the tests, good until 2099; made once, their keys are worth nothing.

/// A certificate and its key, for both.test and *.wild.test, as `ECDSA`.
pub(crate) const RSA: (&str, &str) = (include_str!("rsa.pem"), include_str!("rsa.key"));
pub(crate) const ECDSA: (&str, &str) = (include_str!("ecdsa.pem"), include_str!("ecdsa.key"));
/// For other.test.
pub(crate) const OTHER: (&str, &str) = (include_str!("other.pem"), include_str!("other.key"));
/// What has signed the others.
pub(crate) const AUTHORITY: &str = include_str!("authority.pem");
pub(crate) const OTHER_AUTHORITY: &str = include_str!("other-authority.pem");
/// The authority's list: it revokes the serial number 7.
pub(crate) const REVOKED: &str = include_str!("revoked.crl");
/// A server's, for leaf.test.
pub(crate) const LEAF: &str = include_str!("leaf.pem");
pub(crate) const LEAF_PIN: &str = "UH2+U6OjNKx6bfZagVXFZOWZyB6SQ3l6GONtMdN51nU=";
/// A client's, with all that a name can have.
pub(crate) const CLIENT: &str = include_str!("client.pem");
pub(crate) const CLIENT_FINGERPRINT: &str = "86c8a35eb5864b8f4620ad9c814f0749f82b806807312d6b2774df039adf8bda";
