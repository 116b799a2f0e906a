//! TLS to providers and to proxies: rustls with ring, and which roots are trusted.
//!
//! Sessions are resumed: rustls keeps tickets for as long as the configuration lives.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::telemetry::Telemetry;

pub(super) const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// TLS to providers, which may choose HTTP/2, and to proxies, which may not.
pub(super) fn connectors(telemetry: &Telemetry) -> (TlsConnector, TlsConnector) {
    // Fails if it was done before.
    let _ = ring::default_provider().install_default();
    let plain = ClientConfig::builder()
        .with_root_certificates(roots(telemetry))
        .with_no_client_auth();
    let speaking = |protocols: &[&[u8]]| {
        let mut config = plain.clone();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    };
    (speaking(&[HTTP_2, HTTP_1]), speaking(&[HTTP_1]))
}

/// Mozilla's list, so that a container without certificates works, and the system's (or those of `SSL_CERT_FILE`
/// and `SSL_CERT_DIR`), so that a company's own authority does.
fn roots(telemetry: &Telemetry) -> RootCertStore {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        telemetry.roots_unreadable(error);
    }
    roots.add_parsable_certificates(found.certs);
    roots
}
