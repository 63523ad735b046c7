//! Why an order failed, in words for people.

use std::fmt;

use instant_acme::{Error, Problem};

/// Why an order failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    message: String,
    /// Whether the server has to be given more time.
    pub(super) rate_limited: bool,
    /// The problem's type, without the prefix that all have.
    kind: Option<String>,
}

/// The prefix of the types of problems (RFC 8555, section 6.7).
const TYPES: &str = "urn:ietf:params:acme:error:";

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), rate_limited: false, kind: None }
    }

    /// The same failure, with the step that failed in front.
    pub(super) fn while_doing(mut self, step: &str) -> Self {
        self.message = format!("{step}: {}", self.message);
        self
    }

    /// Whether the ACME server reports this type of problem.
    pub(super) fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let kind = problem.r#type.as_deref().map(|kind| kind.strip_prefix(TYPES).unwrap_or(kind));
        let rate_limited = kind == Some("rateLimited") || matches!(problem.status, Some(429 | 503));
        Self { message: clean(&in_words(&problem, kind)), rate_limited, kind: kind.map(str::to_owned) }
    }
}

fn in_words(problem: &Problem, kind: Option<&str>) -> String {
    let mut text = problem.detail.clone().unwrap_or_else(|| "no details".to_owned());
    if let Some(kind) = kind {
        text = format!("{text} ({kind})");
    }
    for sub in &problem.subproblems {
        let name = sub.identifier.as_ref().map(|name| format!("{}: ", name.authorized(false))).unwrap_or_default();
        text += &format!("; {name}{}", sub.detail.as_deref().unwrap_or("no details"));
    }
    text
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) => problem.into(),
            Error::Json(error) => Self::new(format!("the ACME server's response is not what ACME requires: {error}")),
            Error::Timeout(_) => Self::new("the ACME server did not finish in time"),
            error => Self::new(clean(&with_causes(&error))),
        }
    }
}

/// The most specific causes matter: "connection refused", "unknown issuer".
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    // Long enough for any library, and certainly finite.
    for _ in 0..8 {
        let Some(next) = cause else { break };
        let text = next.to_string();
        if texts.last().is_some_and(|last| !last.contains(&text)) {
            texts.push(text);
        }
        cause = next.source();
    }
    texts.join(": ")
}

/// One line of bounded length without control characters: servers may send anything.
fn clean(text: &str) -> String {
    const MAX: usize = 500;
    let mut clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX).collect();
    if text.chars().count() > MAX {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> Failure {
        serde_json::from_str::<Problem>(json).expect("a problem").into()
    }

    #[test]
    fn a_problem_is_told_in_its_own_words() {
        let failure = problem(r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many\ncertificates"}"#);
        assert_eq!(failure.to_string(), "too many certificates (rateLimited)");
        assert!(failure.rate_limited);
        let failure = problem(
            r#"{"type":"urn:ietf:params:acme:error:malformed","detail":"rejected","status":400,"subproblems":
            [{"detail":"on the blocklist","identifier":{"type":"dns","value":"a.example"}}]}"#,
        );
        assert_eq!(failure.to_string(), "rejected (malformed); a.example: on the blocklist");
        assert!(!failure.rate_limited && failure.is("malformed"));
        assert_eq!(problem("{}").to_string(), "no details");
        assert!(problem(r#"{"status":503}"#).rate_limited);
        assert!(problem(&format!(r#"{{"detail":"{}"}}"#, "x".repeat(9000))).to_string().len() < 600);
    }
}
