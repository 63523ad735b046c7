//! Paths and their methods.

use http::Method;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Health,
    Fail,
    Pass,
    Metrics,
    Slow,
    Stream,
    Echo,
    Upgrade,
    Other,
}

impl Route {
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/health" => Self::Health,
            "/health/fail" => Self::Fail,
            "/health/pass" => Self::Pass,
            "/metrics" => Self::Metrics,
            "/slow" => Self::Slow,
            "/stream" => Self::Stream,
            "/echo" => Self::Echo,
            "/upgrade" => Self::Upgrade,
            _ => Self::Other,
        }
    }

    /// The route's name in spans.
    pub(crate) const fn template(self) -> Option<&'static str> {
        Some(match self {
            Self::Health => "/health",
            Self::Fail => "/health/fail",
            Self::Pass => "/health/pass",
            Self::Metrics => "/metrics",
            Self::Slow => "/slow",
            Self::Stream => "/stream",
            Self::Echo => "/echo",
            Self::Upgrade => "/upgrade",
            Self::Other => return None,
        })
    }

    /// Whether machines request this all the time. Such requests are not counted, so that the count shows the balance.
    pub(crate) const fn is_probe(self) -> bool {
        matches!(self, Self::Health | Self::Metrics)
    }

    /// The allowed methods, if `method` is not one of them.
    pub(crate) fn allowed_instead(self, method: &Method) -> Option<&'static str> {
        let (methods, allowed): (&[Method], _) = match self {
            Self::Health | Self::Metrics => (&[Method::GET, Method::HEAD], "GET, HEAD"),
            Self::Fail | Self::Pass | Self::Echo => (&[Method::POST, Method::PUT], "POST, PUT"),
            Self::Slow | Self::Stream | Self::Upgrade | Self::Other => return None,
        };
        (!methods.contains(method)).then_some(allowed)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::Route;

    #[test]
    fn paths_have_routes_and_methods() {
        let cases = [
            ("/health", Method::GET, Some("/health"), None),
            ("/health", Method::HEAD, Some("/health"), None),
            ("/health", Method::POST, Some("/health"), Some("GET, HEAD")),
            ("/health/fail", Method::POST, Some("/health/fail"), None),
            ("/health/fail", Method::GET, Some("/health/fail"), Some("POST, PUT")),
            ("/health/pass", Method::PUT, Some("/health/pass"), None),
            ("/health/", Method::POST, None, None),
            ("/metrics", Method::DELETE, Some("/metrics"), Some("GET, HEAD")),
            ("/slow", Method::DELETE, Some("/slow"), None),
            ("/stream", Method::GET, Some("/stream"), None),
            ("/echo", Method::GET, Some("/echo"), Some("POST, PUT")),
            ("/upgrade", Method::GET, Some("/upgrade"), None),
            ("/", Method::PATCH, None, None),
        ];
        for (path, method, template, allowed) in cases {
            let route = Route::of(path);
            assert_eq!(route.template(), template, "{path}");
            assert_eq!(route.allowed_instead(&method), allowed, "{method} {path}");
        }
    }
}
