//! Which path asks for what, and by which methods.

use http::Method;

/// What a path asks for.
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

    /// The route as spans name it.
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

    /// Asked by machines, all the time: not counted, so that the count shows the balance.
    pub(crate) const fn is_probe(self) -> bool {
        matches!(self, Self::Health | Self::Metrics)
    }

    /// The methods that the route takes, if this is none of them.
    pub(crate) fn refuses(self, method: &Method) -> Option<&'static str> {
        let (taken, allowed): (&[Method], _) = match self {
            Self::Health | Self::Metrics => (&[Method::GET, Method::HEAD], "GET, HEAD"),
            Self::Fail | Self::Pass | Self::Echo => (&[Method::POST, Method::PUT], "POST, PUT"),
            Self::Slow | Self::Stream | Self::Upgrade | Self::Other => return None,
        };
        (!taken.contains(method)).then_some(allowed)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::Route;

    #[test]
    fn knows_paths_and_methods() {
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
        for (path, method, template, refused) in cases {
            let route = Route::of(path);
            assert_eq!(route.template(), template, "{path}");
            assert_eq!(route.refuses(&method), refused, "{method} {path}");
        }
    }
}
