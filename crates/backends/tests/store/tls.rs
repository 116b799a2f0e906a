//! TLS with PostgreSQL, as the URL says.

use std::path::{Path, PathBuf};
use std::process::Command;

use keypool_backends::store::PostgresStore;
use keypool_core::store::{CatalogStore, Revision, StoreError, StoreErrorKind};
use rcgen::{CertificateParams, KeyPair};
use sqlx::Connection;

use crate::backend::master_key;
use crate::postgres::PostgresServer;

/// A server with a certificate for 127.0.0.1 that is its own authority, the URL of a database, and the certificate.
async fn server_with_tls() -> (PostgresServer, String, PathBuf) {
    let server = PostgresServer::start().await;
    let url = server.create_database().await;
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let data: String = sqlx::query_scalar("SHOW data_directory")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let data = PathBuf::from(data);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    hand_over(&data, "server.crt", &certificate.pem());
    hand_over(&data, "server.key", &key.serialize_pem());
    for sql in ["ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"] {
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    }
    // The server follows a little later.
    while revision(&url, "sslmode=require").await.is_err() {}
    (server, url, data.join("server.crt"))
}

/// Writes a file that only the server's user can read.
fn hand_over(data: &Path, name: &str, text: &str) {
    let file = data.join(name);
    std::fs::write(&file, text).unwrap();
    let done = Command::new("chmod")
        .arg("600")
        .arg(&file)
        .status()
        .unwrap();
    assert!(done.success());
    let reference = format!("--reference={}", data.join("PG_VERSION").display());
    assert!(
        Command::new("chown")
            .arg(reference)
            .arg(&file)
            .status()
            .unwrap()
            .success()
    );
}

async fn revision(url: &str, query: &str) -> Result<Revision, StoreError> {
    PostgresStore::new(&format!("{url}?{query}"), &master_key())?
        .revision()
        .await
}

#[tokio::test]
async fn tls_is_as_the_url_says() {
    let (_server, url, certificate) = server_with_tls().await;
    let store = PostgresStore::new(&format!("{url}?sslmode=require"), &master_key()).unwrap();
    store.revision().await.unwrap();
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let sql = "SELECT bool_and(s.ssl) FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a USING (pid) \
               WHERE a.application_name = 'keypool'";
    let is_encrypted: Option<bool> = sqlx::query_scalar(sql)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(is_encrypted, Some(true));

    let error = revision(&url, "sslmode=verify-full").await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!(error.message.contains("certificate"), "{error}");

    let trusting = format!("sslmode=verify-full&sslrootcert={}", certificate.display());
    revision(&url, &trusting).await.unwrap();
    let error = revision(&url, "sslmode=verify-full&sslrootcert=/missing.pem")
        .await
        .unwrap_err();
    assert!(error.message.contains("sslrootcert"), "{error}");
}
