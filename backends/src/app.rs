//! Decides what is answered, and records the spans of requests that are traced.

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

use crate::body::{Answer, Lines};
use crate::metrics::{self, Figures};
use crate::route::Route;
use crate::trace::Parent;
use crate::zipkin::{Active, Reporter};

/// Nobody waits longer for `/slow`.
const SLOWEST: Duration = Duration::from_secs(60);

/// `/stream` sends at most this many lines.
const MOST_CHUNKS: u32 = 10_000;

/// What intermediaries tell of themselves and of the client, and the traces that they name.
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

/// All that a server's connections share.
#[derive(Debug)]
pub(crate) struct App {
    name: String,
    served_by: HeaderValue,
    healthy: AtomicBool,
    /// Requests answered, `/health` and `/metrics` left out.
    requests: AtomicU64,
    reporter: Option<Reporter>,
    /// Turns true when the server wants to end: upgraded connections do not know by themselves.
    closing: watch::Receiver<bool>,
}

impl App {
    /// Refuses a name that is not made of letters, digits, `.`, `_` and `-`.
    pub(crate) fn new(
        name: String,
        reporter: Option<Reporter>,
        closing: watch::Receiver<bool>,
    ) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let served_by = Some(&name)
            .filter(|name| !name.is_empty() && name.bytes().all(plain))
            .and_then(|name| HeaderValue::from_str(name).ok())
            .ok_or_else(|| format!("`{name}` is no name: letters, digits, `.`, `_` and `-`"))?;
        let (healthy, requests) = (AtomicBool::new(true), AtomicU64::new(0));
        Ok(Self { name, served_by, healthy, requests, reporter, closing })
    }

    /// Answers one request that came in at `local`.
    pub(crate) async fn answer(&self, local: SocketAddr, request: Request<Incoming>) -> Response<Answer> {
        let route = Route::of(request.uri().path());
        let span = self.begin_span(&request, route, local);
        let mut response = self.dispatch(route, request, span.as_ref()).await;
        response.headers_mut().insert("x-served-by", self.served_by.clone());
        // A streamed body is still to come: the span ends with the answer's head.
        if let Some(mut span) = span {
            span.tag("http.response.status_code", response.status().as_str());
            span.finish();
        }
        response
    }

    fn begin_span(&self, request: &Request<Incoming>, route: Route, local: SocketAddr) -> Option<Active<'_>> {
        let reporter = self.reporter.as_ref()?;
        let parent = Parent::sampled(request.headers())?;
        let method = request.method();
        let name = match route.template() {
            Some(template) => format!("{method} {template}"),
            None => method.to_string(),
        };
        let mut span = reporter.server(parent, name, local);
        span.tag("http.request.method", method.as_str());
        span.tag("url.path", request.uri().path());
        if let Some(template) = route.template() {
            span.tag("http.route", template);
        }
        Some(span)
    }

    async fn dispatch(&self, route: Route, request: Request<Incoming>, span: Option<&Active<'_>>) -> Response<Answer> {
        if !route.is_probe() {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(allowed) = route.refuses(request.method()) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("this path takes {allowed}\n"));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            return response;
        }
        if route == Route::Echo {
            return echo(request);
        }
        let request = drain(request).await;
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

    fn health(&self) -> Response<Answer> {
        match self.healthy.load(Ordering::Relaxed) {
            true => text(StatusCode::OK, "ok\n".to_owned()),
            false => text(StatusCode::SERVICE_UNAVAILABLE, "failing\n".to_owned()),
        }
    }

    fn set_health(&self, healthy: bool) -> Response<Answer> {
        self.healthy.store(healthy, Ordering::Relaxed);
        let does = if healthy { "passes" } else { "fails" };
        text(StatusCode::OK, format!("{} {does} its health checks from now on\n", self.name))
    }

    fn metrics(&self) -> Response<Answer> {
        let page = metrics::page(Figures {
            requests: self.requests.load(Ordering::Relaxed),
            spans_dropped: self.reporter.as_ref().map(Reporter::dropped),
        });
        typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page)
    }

    async fn slow(&self, request: &Request<OnUpgrade>, span: Option<&Active<'_>>) -> Response<Answer> {
        let Some(wait) = slowness(parameter(request, "seconds").unwrap_or("1")) else {
            return text(StatusCode::BAD_REQUEST, "`seconds` is a number such as 1.5\n".to_owned());
        };
        let inner = span.map(|span| span.child("sleep"));
        sleep(wait).await;
        if let Some(inner) = inner {
            inner.finish();
        }
        self.describe(request)
    }

    fn stream(&self, request: &Request<OnUpgrade>) -> Response<Answer> {
        let chunks = parameter(request, "chunks").unwrap_or("5").parse::<u32>();
        let millis = parameter(request, "ms").unwrap_or("100").parse::<u64>();
        let (Ok(chunks), Ok(millis)) = (chunks, millis) else {
            return text(StatusCode::BAD_REQUEST, "`chunks` and `ms` are whole numbers\n".to_owned());
        };
        let period = Duration::from_millis(millis).min(SLOWEST);
        let lines = Lines::new(self.name.clone(), chunks.min(MOST_CHUNKS), period);
        let mut response = text(StatusCode::OK, String::new());
        *response.body_mut() = Answer::Lines(lines);
        response
    }

    fn upgrade(&self, request: Request<OnUpgrade>) -> Response<Answer> {
        let asked =
            request.headers().get(UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"echo"));
        let mut response = if asked {
            tokio::spawn(tunnel(request.into_body(), self.closing.clone()));
            let mut response = Response::new(Answer::from(String::new()));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response
        } else {
            text(StatusCode::UPGRADE_REQUIRED, "ask with `Upgrade: echo`\n".to_owned())
        };
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("echo"));
        response
    }

    fn describe<B>(&self, request: &Request<B>) -> Response<Answer> {
        let requests = self.requests.load(Ordering::Relaxed);
        let (name, method, path) = (&self.name, request.method(), request.uri().path());
        let seen = FORWARDED.into_iter().filter_map(|field| {
            let value = joined(request.headers(), field)?;
            Some((field, value))
        });
        let json = joined(request.headers(), ACCEPT.as_str()).is_some_and(|accept| accept.contains("application/json"));
        if json {
            let seen: serde_json::Map<_, _> = seen.map(|(field, value)| (field.to_owned(), value.into())).collect();
            let page = json!({
                "name": name,
                "method": method.as_str(),
                "path": path,
                "requests": requests,
                "headers": seen,
            });
            return typed(StatusCode::OK, "application/json", format!("{page}\n"));
        }
        let mut page = format!("{name}\n{method} {path}\nrequests: {requests}\n");
        page.extend(seen.map(|(field, value)| format!("{field}: {value}\n")));
        text(StatusCode::OK, page)
    }
}

/// Reads the request's body to its end, so that the connection can take the next request; what is
/// left in its place is the connection, for the case that it is to be upgraded.
async fn drain(mut request: Request<Incoming>) -> Request<OnUpgrade> {
    let upgrade = upgrade::on(&mut request);
    let (head, mut body) = request.into_parts();
    while let Some(Ok(_)) = body.frame().await {}
    Request::from_parts(head, upgrade)
}

/// Sends back every byte until the client ends, or the server.
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

fn echo(request: Request<Incoming>) -> Response<Answer> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Answer::Echo(body));
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    response
}

fn text(status: StatusCode, text: String) -> Response<Answer> {
    typed(status, "text/plain; charset=utf-8", text)
}

fn typed(status: StatusCode, kind: &'static str, page: String) -> Response<Answer> {
    let mut response = Response::new(Answer::from(page));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// How long `/slow` waits: what was asked for, within [`SLOWEST`].
fn slowness(seconds: &str) -> Option<Duration> {
    let seconds: f64 = seconds.parse().ok()?;
    Duration::try_from_secs_f64(seconds.min(SLOWEST.as_secs_f64())).ok()
}

/// A parameter of the query as it was written.
fn parameter<'a, B>(request: &'a Request<B>, name: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
}

/// All values of a field in one line.
fn joined(headers: &HeaderMap, field: &str) -> Option<String> {
    let values = headers.get_all(field).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    values.map(String::from).reduce(|all, value| format!("{all}, {value}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{SLOWEST, slowness};

    #[test]
    fn waits_are_bounded() {
        let cases = [
            ("1.5", Some(Duration::from_millis(1500))),
            ("0", Some(Duration::ZERO)),
            ("60", Some(SLOWEST)),
            ("1e300", Some(SLOWEST)),
            ("inf", Some(SLOWEST)),
            ("-1", None),
            ("-inf", None),
            ("soon", None),
            ("", None),
        ];
        for (seconds, wait) in cases {
            assert_eq!(slowness(seconds), wait, "{seconds}");
        }
        // `min` takes the other number's side against NaN: no number, but a bounded wait.
        assert_eq!(slowness("NaN"), Some(SLOWEST));
    }
}
