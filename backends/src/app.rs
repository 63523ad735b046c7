//! Responds to requests, and records a span for each one that is traced.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::header::{ACCEPT, ALLOW, CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::{self, OnUpgrade};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::body::{Lines, ResponseBody};
use crate::metrics::{self, Metrics};
use crate::route::Route;
use crate::trace::Parent;
use crate::zipkin::{ActiveSpan, SpanReporter};

/// The longest wait of `/slow`.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The most lines of `/stream`.
const MAX_CHUNKS: u32 = 10_000;

/// The headers that the description of a request shows: those that proxies add.
const FORWARDED: [&str; 13] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "via",
    "x-request-id",
    "traceparent",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];

/// The state that all connections of a server share.
#[derive(Debug)]
pub(crate) struct App {
    name: String,
    served_by: HeaderValue,
    healthy: AtomicBool,
    /// Without those to `/health` and `/metrics`.
    requests: AtomicU64,
    reporter: Option<SpanReporter>,
    /// Becomes true at shutdown, to end upgraded connections, which hyper no longer manages.
    closing: watch::Receiver<bool>,
}

impl App {
    /// Fails unless the name consists of letters, digits, `.`, `_` and `-`.
    pub(crate) fn new(
        name: String,
        reporter: Option<SpanReporter>,
        closing: watch::Receiver<bool>,
    ) -> Result<Self, String> {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let served_by = Some(&name)
            .filter(|name| !name.is_empty() && name.bytes().all(is_valid))
            .and_then(|name| HeaderValue::from_str(name).ok())
            .ok_or_else(|| format!("invalid name `{name}`: use letters, digits, `.`, `_` and `-`"))?;
        let (healthy, requests) = (AtomicBool::new(true), AtomicU64::new(0));
        Ok(Self { name, served_by, healthy, requests, reporter, closing })
    }

    /// Responds to a request that was received at the address `local`.
    pub(crate) async fn respond(&self, local: SocketAddr, request: Request<Incoming>) -> Response<ResponseBody> {
        let route = Route::of(request.uri().path());
        let span = self.start_span(&request, route, local);
        let mut response = self.dispatch(route, request, span.as_ref()).await;
        response.headers_mut().insert("x-served-by", self.served_by.clone());
        // The span ends with the response's head, even if the body is streamed.
        if let Some(mut span) = span {
            span.tag("http.response.status_code", response.status().as_str());
            span.finish();
        }
        response
    }

    fn start_span(&self, request: &Request<Incoming>, route: Route, local: SocketAddr) -> Option<ActiveSpan<'_>> {
        let reporter = self.reporter.as_ref()?;
        let parent = Parent::sampled(request.headers())?;
        let method = request.method();
        let name = match route.template() {
            Some(template) => format!("{method} {template}"),
            None => method.to_string(),
        };
        let mut span = reporter.start(parent, name, local);
        span.tag("http.request.method", method.as_str());
        span.tag("url.path", request.uri().path());
        if let Some(template) = route.template() {
            span.tag("http.route", template);
        }
        Some(span)
    }

    async fn dispatch(
        &self,
        route: Route,
        request: Request<Incoming>,
        span: Option<&ActiveSpan<'_>>,
    ) -> Response<ResponseBody> {
        if !route.is_probe() {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(allowed) = route.allowed_instead(request.method()) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("allowed methods: {allowed}\n"));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            return response;
        }
        if route == Route::Echo {
            return echo(request);
        }
        let request = read_body(request).await;
        match route {
            Route::Health => self.health(),
            Route::Fail => self.set_health(false),
            Route::Pass => self.set_health(true),
            Route::Metrics => self.metrics(),
            Route::Slow => self.slow(&request, span).await,
            Route::Stream => self.stream(&request),
            Route::Upgrade => self.upgrade(request),
            Route::Echo | Route::Other => self.describe(&request),
        }
    }

    fn health(&self) -> Response<ResponseBody> {
        match self.healthy.load(Ordering::Relaxed) {
            true => text(StatusCode::OK, "ok\n".to_owned()),
            false => text(StatusCode::SERVICE_UNAVAILABLE, "failing\n".to_owned()),
        }
    }

    fn set_health(&self, healthy: bool) -> Response<ResponseBody> {
        self.healthy.store(healthy, Ordering::Relaxed);
        let does = if healthy { "passes" } else { "fails" };
        text(StatusCode::OK, format!("{} {does} its health checks now\n", self.name))
    }

    fn metrics(&self) -> Response<ResponseBody> {
        let page = metrics::page(Metrics {
            requests: self.requests.load(Ordering::Relaxed),
            spans_dropped: self.reporter.as_ref().map(SpanReporter::dropped),
        });
        with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page)
    }

    async fn slow(&self, request: &Request<OnUpgrade>, span: Option<&ActiveSpan<'_>>) -> Response<ResponseBody> {
        let Some(wait) = slow_wait(parameter(request, "seconds").unwrap_or("1")) else {
            return text(StatusCode::BAD_REQUEST, "`seconds` must be a number such as 1.5\n".to_owned());
        };
        let inner = span.map(|span| span.child("sleep"));
        sleep(wait).await;
        if let Some(inner) = inner {
            inner.finish();
        }
        self.describe(request)
    }

    fn stream(&self, request: &Request<OnUpgrade>) -> Response<ResponseBody> {
        let chunks = parameter(request, "chunks").unwrap_or("5").parse::<u32>();
        let millis = parameter(request, "ms").unwrap_or("100").parse::<u64>();
        let (Ok(chunks), Ok(millis)) = (chunks, millis) else {
            return text(StatusCode::BAD_REQUEST, "`chunks` and `ms` must be whole numbers\n".to_owned());
        };
        let period = Duration::from_millis(millis).min(MAX_WAIT);
        let lines = Lines::new(self.name.clone(), chunks.min(MAX_CHUNKS), period);
        let mut response = text(StatusCode::OK, String::new());
        *response.body_mut() = ResponseBody::Lines(lines);
        response
    }

    fn upgrade(&self, request: Request<OnUpgrade>) -> Response<ResponseBody> {
        let is_echo =
            request.headers().get(UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"echo"));
        let mut response = if is_echo {
            tokio::spawn(tunnel(request.into_body(), self.closing.clone()));
            let mut response = Response::new(ResponseBody::from(String::new()));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response
        } else {
            text(StatusCode::UPGRADE_REQUIRED, "send `Upgrade: echo`\n".to_owned())
        };
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("echo"));
        response
    }

    fn describe<B>(&self, request: &Request<B>) -> Response<ResponseBody> {
        let requests = self.requests.load(Ordering::Relaxed);
        let (name, method, path) = (&self.name, request.method(), request.uri().path());
        let seen = FORWARDED.into_iter().filter_map(|name| {
            let value = joined(request.headers(), name)?;
            Some((name, value))
        });
        let wants_json =
            joined(request.headers(), ACCEPT.as_str()).is_some_and(|accept| accept.contains("application/json"));
        if wants_json {
            let seen: serde_json::Map<_, _> = seen.map(|(name, value)| (name.to_owned(), value.into())).collect();
            let page = json!({
                "name": name,
                "method": method.as_str(),
                "path": path,
                "requests": requests,
                "headers": seen,
            });
            return with_type(StatusCode::OK, "application/json", format!("{page}\n"));
        }
        let mut page = format!("{name}\n{method} {path}\nrequests: {requests}\n");
        page.extend(seen.map(|(name, value)| format!("{name}: {value}\n")));
        text(StatusCode::OK, page)
    }
}

/// Reads the request's body to its end, so that the connection can be reused. The body is replaced by the handle for an
/// upgrade of the connection.
async fn read_body(mut request: Request<Incoming>) -> Request<OnUpgrade> {
    let upgrade = upgrade::on(&mut request);
    let (head, mut body) = request.into_parts();
    while let Some(Ok(_)) = body.frame().await {}
    Request::from_parts(head, upgrade)
}

/// Sends back every byte until the client closes the connection or the server shuts down.
async fn tunnel(upgrade: OnUpgrade, mut closing: watch::Receiver<bool>) {
    let Ok(upgraded) = upgrade.await else {
        return;
    };
    let (mut reader, mut writer) = io::split(TokioIo::new(upgraded));
    tokio::select! {
        _ = io::copy(&mut reader, &mut writer) => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

fn echo(request: Request<Incoming>) -> Response<ResponseBody> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(ResponseBody::Echo(body));
    if let Some(media_type) = head.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, media_type.clone());
    }
    response
}

fn text(status: StatusCode, text: String) -> Response<ResponseBody> {
    with_type(status, "text/plain; charset=utf-8", text)
}

fn with_type(status: StatusCode, media_type: &'static str, text: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// The wait of `/slow`, at most [`MAX_WAIT`].
fn slow_wait(seconds: &str) -> Option<Duration> {
    let seconds: f64 = seconds.parse().ok()?;
    Duration::try_from_secs_f64(seconds.min(MAX_WAIT.as_secs_f64())).ok()
}

/// A query parameter, not decoded.
fn parameter<'a, B>(request: &'a Request<B>, name: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
}

/// All values of a header, joined by commas.
fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    values.map(String::from).reduce(|all, value| format!("{all}, {value}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{MAX_WAIT, slow_wait};

    #[test]
    fn waits_are_bounded() {
        let cases = [
            ("1.5", Some(Duration::from_millis(1500))),
            ("0", Some(Duration::ZERO)),
            ("60", Some(MAX_WAIT)),
            ("1e300", Some(MAX_WAIT)),
            ("inf", Some(MAX_WAIT)),
            ("-1", None),
            ("-inf", None),
            ("soon", None),
            ("", None),
        ];
        for (seconds, wait) in cases {
            assert_eq!(slow_wait(seconds), wait, "{seconds}");
        }
        // `f64::min` returns the other operand for NaN, so the wait is bounded here too.
        assert_eq!(slow_wait("NaN"), Some(MAX_WAIT));
    }
}
