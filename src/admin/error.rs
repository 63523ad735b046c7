//! Errors of the admin address, sent as problem details (RFC 9457).

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::ApiResponse;

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ApiError {
    title: &'static str,
    status: u16,
    /// The problem, and what to do about it.
    detail: String,
    /// The pools concerned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pools: Vec<String>,
    /// The names or values that would have been accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed: Vec<String>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: detail.into(),
            pools: Vec::new(),
            allowed: Vec::new(),
        }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub(super) fn with_pools<'a>(self, pools: impl IntoIterator<Item = &'a str>) -> Self {
        Self { pools: pools.into_iter().map(Into::into).collect(), ..self }
    }

    pub(super) fn with_allowed<'a>(self, allowed: impl IntoIterator<Item = &'a str>) -> Self {
        Self { allowed: allowed.into_iter().map(Into::into).collect(), ..self }
    }
}

impl From<ApiError> for ApiResponse {
    fn from(error: ApiError) -> Self {
        let mut body = serde_json::to_vec(&error).unwrap_or_default();
        body.push(b'\n');
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if error.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}
