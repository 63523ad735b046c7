//! The dashboard: a page and its files, built in. They use nothing but the API, so they work without internet access.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, InvalidHeaderValue,
};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::Full;
use sha2::{Digest as _, Sha256};

use super::ApiResponse;
use super::api::with_type;
use super::error::ApiError;

/// Allows only content from this address, and no embedding of the page in another.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const PAGE: &str = include_str!("dashboard/index.html");

/// Name, content type and content of each file that the page loads.
const FILES: [(&str, &str, &str); 7] = [
    ("style.css", CSS, include_str!("dashboard/style.css")),
    ("main.js", SCRIPT, include_str!("dashboard/main.js")),
    ("dom.js", SCRIPT, include_str!("dashboard/dom.js")),
    ("format.js", SCRIPT, include_str!("dashboard/format.js")),
    ("servers.js", SCRIPT, include_str!("dashboard/servers.js")),
    ("chart.js", SCRIPT, include_str!("dashboard/chart.js")),
    ("reloads.js", SCRIPT, include_str!("dashboard/reloads.js")),
];

pub(super) fn page(request: &Parts) -> Result<ApiResponse, ApiError> {
    Ok(conditional(HTML, PAGE, request))
}

pub(super) fn file(name: &str, request: &Parts) -> Result<ApiResponse, ApiError> {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, content_type, text)) => Ok(conditional(content_type, text, request)),
        None => Err(ApiError::not_found(format!("the dashboard has no file `{name}`"))),
    }
}

/// A response that a browser may store but must revalidate each time, so that an upgrade of lb shows at once.
fn conditional(content_type: &'static str, text: &'static str, request: &Parts) -> ApiResponse {
    let tag = tag(text);
    let is_stored =
        tag.as_ref().is_ok_and(|tag| request.headers.get_all(IF_NONE_MATCH).iter().any(|stored| stored == tag));
    let mut response = if is_stored {
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        with_type(content_type, text)
    };
    let headers = response.headers_mut();
    let constants = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    headers.extend(constants.map(|(name, value)| (name, HeaderValue::from_static(value))));
    headers.extend(tag.ok().map(|tag| (ETAG, tag)));
    response
}

fn tag(text: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let hash = Sha256::digest(text.as_bytes());
    HeaderValue::try_from(format!("\"{}\"", const_hex::encode(&hash[..16])))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in a text that follow `before`, up to the next quotation mark.
    fn names_after<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(before).skip(1).filter_map(|rest| rest.split('"').next())
    }

    #[test]
    fn every_file_is_loaded_and_nothing_else() {
        let mut loaded: Vec<&str> = names_after(PAGE, "=\"dashboard/").collect();
        assert!(!loaded.is_empty());
        for (_, _, text) in FILES {
            loaded.extend(names_after(text, "from \"./"));
        }
        loaded.sort_unstable();
        loaded.dedup();
        let mut served = FILES.map(|(name, ..)| name);
        served.sort_unstable();
        assert_eq!(loaded, served);
    }

    #[test]
    fn nothing_is_loaded_from_other_hosts_and_no_text_becomes_markup() {
        for (name, _, text) in FILES.into_iter().chain([("index.html", HTML, PAGE)]) {
            let text = text.replace("http://www.w3.org/", "");
            for forbidden in [
                "://",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                " style=",
                "onclick=",
            ] {
                assert!(!text.contains(forbidden), "{name} contains {forbidden}");
            }
        }
    }
}
