//! Why a request is turned away before it has a route, by which section of the standard, and what its client is told.

use http::StatusCode;

/// A request that no server may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// A `CONNECT` (RFC 9110, section 9.3.6): nothing here is a tunnel to anywhere.
    Connect,
    /// A `TRACE` (RFC 9110, section 9.3.8): it would show a client what was added on its way.
    Trace,
    /// Headers that say in two ways, or in none that is plain, where the body ends (RFC 9112, sections 6.1
    /// and 6.3; RFC 9110, section 8.6).
    Framing,
    /// A target that is none of the forms of RFC 9112, section 3.2, that its method may have.
    TargetForm,
    /// A target with a fragment (RFC 9112, section 3.2; RFC 3986, section 3.5), or a byte that is not
    /// visible ASCII (RFC 3986, section 2).
    TargetBytes,
    /// An absolute target that is neither `http` nor `https` (RFC 9110, section 4.2).
    Scheme,
    /// HTTP/1.1 without a `Host` (RFC 9112, section 3.2).
    NoHost,
    /// More than one `Host` (RFC 9112, section 3.2).
    ManyHosts,
    /// A `Host`, or the authority of an absolute target, that is no host with perhaps a port (RFC 9110,
    /// section 7.2; RFC 3986, section 3.2.2), or has user information (RFC 9110, section 4.2.4).
    BadHost,
    /// An escape in the path that is not `%` and two hexadecimal digits (RFC 3986, section 2.1), or stands
    /// for NUL (section 7.3).
    BadEscape,
    /// Escapes in the path that together are no UTF-8 (RFC 3629, section 3), as longer forms of `/` are not.
    BadText,
    /// A path with more `..` than there are segments before them, of which RFC 3986, section 5.2.4, would
    /// say nothing.
    AboveRoot,
    /// An `Upgrade` (RFC 9110, section 7.8) on a request with a body, whose end two parties could see in two
    /// places.
    UpgradeWithBody,
}

impl Rejection {
    /// What an answer of 405 has in its `Allow` field.
    pub const ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

    /// The answer's status; with 405 belongs [`Rejection::ALLOW`].
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Connect | Self::Trace => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// One sentence for the client.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT is not offered here.",
            Self::Trace => "TRACE is not offered here.",
            Self::Framing => "The headers that say where the body ends contradict each other, or are not valid.",
            Self::TargetForm => "The request target is neither a path nor an absolute URI.",
            Self::TargetBytes => "The request target contains a character that has to be percent-encoded.",
            Self::Scheme => "The scheme of the request target is neither http nor https.",
            Self::NoHost => "The Host field is missing.",
            Self::ManyHosts => "There is more than one Host field.",
            Self::BadHost => "The host is not a name or an IP address, with or without a port.",
            Self::BadEscape => "The path contains a percent sign without two hexadecimal digits, or %00.",
            Self::BadText => "The percent-encoded characters of the path are not UTF-8.",
            Self::AboveRoot => "The path leads above the root.",
            Self::UpgradeWithBody => "A request with a body cannot ask for an upgrade.",
        }
    }

    /// Whether the connection has to end with the answer: where client and balancer may disagree
    /// about what the connection's next bytes are. A path is only a bad path.
    #[must_use]
    pub fn closes(self) -> bool {
        !matches!(self, Self::Trace | Self::BadEscape | Self::BadText | Self::AboveRoot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_and_malformed_heads_end_the_connection_and_bad_paths_do_not() {
        let cases = [
            (Rejection::Connect, 405, true),
            (Rejection::Trace, 405, false),
            (Rejection::Framing, 400, true),
            (Rejection::NoHost, 400, true),
            (Rejection::UpgradeWithBody, 400, true),
            (Rejection::AboveRoot, 400, false),
        ];
        for (refusal, status, closes) in cases {
            assert_eq!((refusal.status().as_u16(), refusal.closes()), (status, closes), "{refusal:?}");
        }
    }
}
