//! Refusals: every answer of the admin address that is not what was asked for, as problem details (RFC 9457).

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::Answer;

/// Why a request is not answered as it would like.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ApiError {
    title: &'static str,
    status: u16,
    /// What is wrong and what to do.
    detail: String,
    /// The pools that it is about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pools: Vec<String>,
    /// What could have stood in the place of what was wrong.
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

    /// A request that makes no sense.
    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The same, about these pools.
    pub(super) fn about<'a>(self, pools: impl IntoIterator<Item = &'a str>) -> Self {
        Self { pools: pools.into_iter().map(Into::into).collect(), ..self }
    }

    /// The same, with what is allowed.
    pub(super) fn allowing<'a>(self, allowed: impl IntoIterator<Item = &'a str>) -> Self {
        Self { allowed: allowed.into_iter().map(Into::into).collect(), ..self }
    }
}

impl From<ApiError> for Answer {
    fn from(refusal: ApiError) -> Self {
        let mut body = serde_json::to_vec(&refusal).unwrap_or_default();
        body.push(b'\n');
        let mut answer = Response::new(Full::new(Bytes::from(body)));
        *answer.status_mut() = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        answer
    }
}
