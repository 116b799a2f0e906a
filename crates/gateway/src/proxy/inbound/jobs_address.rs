//! The paths of jobs.

use http::Method;
use keypool_core::store::JobId;

use crate::error::{GatewayError, Kind};

/// What a caller asks about jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobsAddress {
    /// `GET /v1/jobs`
    List,
    /// `GET /v1/jobs/{id}`
    One(JobId),
    /// `DELETE /v1/jobs/{id}`
    Cancel(JobId),
    /// `GET /v1/jobs/{id}/response`
    Response(JobId),
    /// `GET /v1/jobs/{id}/events`
    Events(JobId),
}

impl JobsAddress {
    /// What method and path ask about jobs; `None` if the path is not about jobs. A slash may be doubled or stand at the end,
    /// and the version may be missing or doubled.
    ///
    /// # Errors
    /// For another method.
    pub(crate) fn find(method: &Method, path: &str) -> Option<Result<Self, GatewayError>> {
        let segments = path.split('/').filter(|segment| !segment.is_empty());
        let segments: Vec<&str> = segments.skip_while(|segment| *segment == "v1").collect();
        let (address, allowed) = match segments[..] {
            ["jobs"] => (Self::List, "GET"),
            ["jobs", id] if *method == Method::DELETE => (Self::Cancel(id.into()), "GET, DELETE"),
            ["jobs", id] => (Self::One(id.into()), "GET, DELETE"),
            ["jobs", id, "response"] => (Self::Response(id.into()), "GET"),
            ["jobs", id, "events"] => (Self::Events(id.into()), "GET"),
            _ => return None,
        };
        let is_allowed = allowed.split(", ").any(|one| one == method.as_str());
        Some(match is_allowed {
            true => Ok(address),
            false => {
                let message = format!("{path} does not take {method}; use {allowed}");
                Err(GatewayError::new(Kind::MethodNotAllowed(allowed), message))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_jobs_are_found() {
        let find = |method: Method, path: &str| JobsAddress::find(&method, path);
        let get = |path| find(Method::GET, path).map(Result::unwrap);
        assert_eq!(get("/v1/jobs"), Some(JobsAddress::List));
        assert_eq!(get("/jobs/"), Some(JobsAddress::List));
        assert_eq!(get("/v1//jobs/j"), Some(JobsAddress::One("j".into())));
        assert_eq!(
            get("/v1/v1/jobs/j/response"),
            Some(JobsAddress::Response("j".into()))
        );
        assert_eq!(
            get("/v1/jobs/j/events"),
            Some(JobsAddress::Events("j".into()))
        );
        assert_eq!(get("/v1/jobs/j/other"), None);
        assert_eq!(get("/v2/jobs"), None);
        let cancel = find(Method::DELETE, "/v1/jobs/j").map(Result::unwrap);
        assert_eq!(cancel, Some(JobsAddress::Cancel("j".into())));
        for (method, path) in [
            (Method::POST, "/v1/jobs"),
            (Method::PUT, "/v1/jobs/j"),
            (Method::DELETE, "/v1/jobs/j/response"),
        ] {
            assert!(find(method, path).unwrap().is_err());
        }
    }
}
