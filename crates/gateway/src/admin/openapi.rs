//! The OpenAPI document of the admin API, made from its handlers, and what all of them can answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::routing::{MethodRouter, get};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{Ref, Schema};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{OpenApi, RefOr, SecurityRequirement};
use utoipa::{IntoResponses, ToSchema};

use super::problem::{PROBLEM_JSON, ProblemDocument};
use crate::context::Gateway;

const AUTH: &str = "admin_token";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "keypool admin API",
        description = "Manages pools, keys and virtual keys. Every call needs the admin token as a bearer token.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    components(schemas(ProblemDocument))
)]
struct Base;

/// The document without its paths.
pub(super) fn base() -> OpenApi {
    let mut document = <Base as utoipa::OpenApi>::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    if let Some(components) = &mut document.components {
        components.add_security_scheme(AUTH, scheme);
    }
    document.security = Some(vec![SecurityRequirement::new(AUTH, Vec::<String>::new())]);
    document
}

/// `GET /api/v1/openapi.json`, which needs no token.
pub(super) fn route(document: &OpenApi) -> MethodRouter<Arc<Gateway>> {
    let document = serde_json::to_value(document).unwrap_or_default();
    get(move || async move { Json(document) })
}

/// Errors of calls that read.
pub(super) struct ReadProblems;

/// Errors of calls that change something.
pub(super) struct ChangeProblems;

const READ: &[(&str, &str)] = &[
    ("400", "A parameter is wrong."),
    ("401", "The admin token is missing or wrong."),
    ("404", "There is no such resource."),
    ("503", "The store does not respond."),
];

const CHANGE: &[(&str, &str)] = &[
    (
        "409",
        "The change contradicts what there is: a name or secret is taken, or the resource is declared in the configuration.",
    ),
    (
        "412",
        "The resource is not in the version that the request expects.",
    ),
    ("413", "The body is too large."),
    ("415", "The body has a media type that is not read here."),
    ("422", "What was sent can be read, and is not valid."),
];

impl IntoResponses for ReadProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(READ)
    }
}

impl IntoResponses for ChangeProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut all = problems(READ);
        all.append(&mut problems(CHANGE));
        all
    }
}

fn problems(statuses: &[(&str, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let response = |(status, meaning): &(&str, &str)| {
        let document = Ref::from_schema_name("Problem");
        let content = ContentBuilder::new().schema(Some(document)).build();
        let response = ResponseBuilder::new()
            .description(*meaning)
            .content(PROBLEM_JSON, content)
            .build();
        ((*status).to_owned(), RefOr::T(response))
    };
    statuses.iter().map(response).collect()
}

/// The names of the fields of a JSON object with this schema.
pub(super) fn field_names<T: ToSchema>() -> Vec<String> {
    let mut schemas = Vec::new();
    T::schemas(&mut schemas);
    let mut names = Vec::new();
    collect(&T::schema(), &schemas, &mut names);
    names
}

fn collect(schema: &RefOr<Schema>, known: &[(String, RefOr<Schema>)], names: &mut Vec<String>) {
    match schema {
        RefOr::Ref(reference) => {
            let name = reference
                .ref_location
                .rsplit('/')
                .next()
                .unwrap_or_default();
            if let Some((_, schema)) = known.iter().find(|(known, _)| known == name) {
                collect(schema, known, names);
            }
        }
        RefOr::T(Schema::Object(object)) => names.extend(object.properties.keys().cloned()),
        RefOr::T(Schema::AllOf(all)) => all.items.iter().for_each(|one| collect(one, known, names)),
        RefOr::T(_) => {}
    }
}
