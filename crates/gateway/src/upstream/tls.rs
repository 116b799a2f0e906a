//! TLS to providers and to proxies: rustls with ring, and the trusted roots.
//!
//! Sessions are resumed: rustls keeps tickets as long as the `ClientConfig` lives.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::telemetry::Telemetry;

pub(super) const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// Connectors for providers, which may choose HTTP/2, and for proxies, which may not.
pub(super) fn connectors(telemetry: &Telemetry) -> (TlsConnector, TlsConnector) {
    // Fails if it was installed before.
    let _ = ring::default_provider().install_default();
    let base = ClientConfig::builder()
        .with_root_certificates(roots(telemetry))
        .with_no_client_auth();
    let with_alpn = |protocols: &[&[u8]]| {
        let mut config = base.clone();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    };
    (with_alpn(&[HTTP_2, HTTP_1]), with_alpn(&[HTTP_1]))
}

/// Mozilla's roots, so that containers without certificates work, and the system's (or those of `SSL_CERT_FILE` and
/// `SSL_CERT_DIR`), so that a company's own certificate authority works.
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
