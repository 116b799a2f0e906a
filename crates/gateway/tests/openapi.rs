//! The OpenAPI document that is checked in describes the admin API as it is.

use std::path::Path;

use serde_json::Value;

/// To write it: `KEYPOOL_WRITE_DOCS=1 cargo test -p keypool-gateway --test openapi`.
#[test]
fn the_checked_in_document_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let document = keypool_gateway::openapi_document();
    if std::env::var_os("KEYPOOL_WRITE_DOCS").is_some() {
        std::fs::write(&file, &document).unwrap();
    }
    let checked_in = std::fs::read_to_string(&file).unwrap_or_default();
    let advice = "docs/openapi.json is not up to date: KEYPOOL_WRITE_DOCS=1 cargo test -p keypool-gateway --test openapi";
    assert!(checked_in == document, "{advice}");
}

#[test]
fn every_operation_has_an_id_a_summary_and_its_errors() {
    let document: Value = serde_json::from_str(&keypool_gateway::openapi_document()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations += 1;
            let what = format!("{method} {path}");
            assert!(operation["operationId"].is_string(), "{what}");
            assert!(operation["summary"].is_string(), "{what}");
            assert!(operation["responses"]["401"].is_object(), "{what}");
        }
    }
    assert!(operations >= 25, "{operations}");
}
