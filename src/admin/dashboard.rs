//! The dashboard: a page and its parts, built in. They come from here alone, know nothing but the API, and run without
//! a network beyond this address.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, InvalidHeaderValue,
};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::Full;
use sha2::{Digest as _, Sha256};

use super::Answer;
use super::api::with_type;
use super::refusal::ApiError;

/// Only what comes from this address runs, is shown or asked for, and nobody puts the page into one of theirs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const PAGE: &str = include_str!("dashboard/index.html");

/// Name, type and content of what the page consists of.
const PARTS: [(&str, &str, &str); 7] = [
    ("style.css", CSS, include_str!("dashboard/style.css")),
    ("main.js", SCRIPT, include_str!("dashboard/main.js")),
    ("dom.js", SCRIPT, include_str!("dashboard/dom.js")),
    ("format.js", SCRIPT, include_str!("dashboard/format.js")),
    ("servers.js", SCRIPT, include_str!("dashboard/servers.js")),
    ("chart.js", SCRIPT, include_str!("dashboard/chart.js")),
    ("reloads.js", SCRIPT, include_str!("dashboard/reloads.js")),
];

/// The page.
pub(super) fn page(request: &Parts) -> Result<Answer, ApiError> {
    Ok(file(HTML, PAGE, request))
}

/// A part of the page.
pub(super) fn part(name: &str, request: &Parts) -> Result<Answer, ApiError> {
    match PARTS.iter().find(|(known, ..)| *known == name) {
        Some((_, content_type, text)) => Ok(file(content_type, text, request)),
        None => Err(ApiError::new(StatusCode::NOT_FOUND, format!("the dashboard has no part `{name}`"))),
    }
}

/// A browser may keep it, but asks each time whether it is still this.
fn file(content_type: &'static str, text: &'static str, request: &Parts) -> Answer {
    let tag = tag(text);
    let known = tag.as_ref().is_ok_and(|tag| request.headers.get_all(IF_NONE_MATCH).iter().any(|known| known == tag));
    let mut answer = if known {
        let mut answer = Response::new(Full::new(Bytes::new()));
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else {
        with_type(content_type, text)
    };
    let headers = answer.headers_mut();
    let says = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    headers.extend(says.map(|(name, value)| (name, HeaderValue::from_static(value))));
    headers.extend(tag.ok().map(|tag| (ETAG, tag)));
    answer
}

fn tag(text: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let hash = Sha256::digest(text.as_bytes());
    HeaderValue::try_from(format!("\"{}\"", const_hex::encode(&hash[..16])))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of parts that a text asks for, by what stands before them.
    fn asked_for<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(before).skip(1).filter_map(|rest| rest.split('"').next())
    }

    #[test]
    fn every_part_is_asked_for_and_no_other() {
        let mut asked: Vec<&str> = asked_for(PAGE, "=\"dashboard/").collect();
        assert!(!asked.is_empty());
        for (_, _, text) in PARTS {
            asked.extend(asked_for(text, "from \"./"));
        }
        asked.sort_unstable();
        asked.dedup();
        let mut there = PARTS.map(|(name, ..)| name);
        there.sort_unstable();
        assert_eq!(asked, there);
    }

    #[test]
    fn nothing_comes_from_elsewhere_and_no_text_becomes_markup() {
        for (name, _, text) in PARTS.into_iter().chain([("index.html", HTML, PAGE)]) {
            let text = text.replace("http://www.w3.org/", "");
            for never in [
                "://",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                " style=",
                "onclick=",
            ] {
                assert!(!text.contains(never), "{name} has {never}");
            }
        }
    }
}
