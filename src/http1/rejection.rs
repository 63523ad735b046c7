//! The reasons for rejecting a request before it is routed, each with its RFC section, status and explanation. Pure.

use http::StatusCode;

/// A request that must not reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// `CONNECT` (RFC 9110, section 9.3.6): `lb` does not tunnel to addresses that a client chooses.
    Connect,
    /// `TRACE` (RFC 9110, section 9.3.8): the response would show the client the headers added on the way.
    Trace,
    /// Ambiguous or invalid headers about the body's length (RFC 9112, sections 6.1 and 6.3; RFC 9110, section 8.6).
    Framing,
    /// A target in none of the forms that RFC 9112, section 3.2, allows for the method.
    TargetForm,
    /// A target with a fragment (RFC 9112, section 3.2; RFC 3986, section 3.5), or with a byte that is not
    /// visible ASCII (RFC 3986, section 2).
    TargetBytes,
    /// An absolute target whose scheme is neither `http` nor `https` (RFC 9110, section 4.2).
    Scheme,
    /// HTTP/1.1 without `Host` (RFC 9112, section 3.2).
    NoHost,
    /// More than one `Host` (RFC 9112, section 3.2).
    ManyHosts,
    /// A `Host`, or the authority of an absolute target, that is not a host with an optional port (RFC 9110,
    /// section 7.2; RFC 3986, section 3.2.2), or that has user information (RFC 9110, section 4.2.4).
    BadHost,
    /// An escape in the path that is not `%` and two hexadecimal digits (RFC 3986, section 2.1), or that
    /// encodes NUL (section 7.3).
    BadEscape,
    /// Escapes in the path that encode a character in more bytes than UTF-8 allows (RFC 3629, section 3), such as an
    /// overlong `/`.
    Overlong,
    /// A path with a `..` that would lead above the root. RFC 3986, section 5.2.4, would ignore it.
    AboveRoot,
    /// A path that matches another route with its dot segments than without them: a server that takes it literally
    /// would get a request that was meant for another.
    AmbiguousPath,
}

impl Rejection {
    /// The value of `Allow` in a 405 response.
    pub const ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

    /// The status of the response; 405 requires an `Allow` header, see [`Rejection::ALLOW`].
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Connect | Self::Trace => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The explanation for the client, in one sentence.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT is not supported.",
            Self::Trace => "TRACE is not supported.",
            Self::Framing => "Content-Length and Transfer-Encoding are invalid or contradict each other.",
            Self::TargetForm => "The request target is neither a path nor an absolute URI.",
            Self::TargetBytes => "The request target contains a character that must be percent-encoded.",
            Self::Scheme => "The scheme of the request target is neither http nor https.",
            Self::NoHost => "The Host header is missing.",
            Self::ManyHosts => "There is more than one Host header.",
            Self::BadHost => "The host is not a name or an IP address with an optional port.",
            Self::BadEscape => "The path contains a percent sign without two hexadecimal digits, or %00.",
            Self::Overlong => "The path contains a character in an overlong encoding.",
            Self::AboveRoot => "The path leads above the root.",
            Self::AmbiguousPath => "The path matches different routes with and without its dot segments.",
        }
    }

    /// The violated rule as one word, for the log.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Trace => "trace",
            Self::Framing => "framing",
            Self::TargetForm => "target_form",
            Self::TargetBytes => "target_bytes",
            Self::Scheme => "scheme",
            Self::NoHost => "no_host",
            Self::ManyHosts => "many_hosts",
            Self::BadHost => "bad_host",
            Self::BadEscape => "bad_escape",
            Self::Overlong => "overlong",
            Self::AboveRoot => "above_root",
            Self::AmbiguousPath => "ambiguous_path",
        }
    }

    /// Whether the connection must close after the response, because client and balancer may disagree about
    /// where the next message starts. An invalid path leaves no such doubt.
    #[must_use]
    pub fn closes(self) -> bool {
        !matches!(self, Self::Trace | Self::BadEscape | Self::Overlong | Self::AboveRoot | Self::AmbiguousPath)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_and_malformed_heads_close_the_connection_and_bad_paths_do_not() {
        let cases = [
            (Rejection::Connect, 405, true),
            (Rejection::Trace, 405, false),
            (Rejection::Framing, 400, true),
            (Rejection::NoHost, 400, true),
            (Rejection::AboveRoot, 400, false),
        ];
        for (rejection, status, closes) in cases {
            assert_eq!((rejection.status().as_u16(), rejection.closes()), (status, closes), "{rejection:?}");
        }
    }
}
