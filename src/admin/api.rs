//! The endpoints: their paths, their parameters and their responses. No sockets here.

mod probes;

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::error::ApiError;
use super::{AdminContext, ApiResponse, dashboard, host};
use crate::admin::figures::{FiguresView, HistoryView};
use crate::admin::query::{self, Query};
use crate::admin::view::{self, ConfigView, ListenerView, ReloadView, RouteView, ServerView};
use crate::admin::warnings::warnings;
use crate::live::pool::Status;
use crate::live::snapshot::Snapshot;
use crate::telemetry::metrics;

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// Describes [`ENDPOINTS`]; a test compares the two.
const OPENAPI: &str = include_str!("openapi.json");

/// The variable segment at the end of a path.
const NAME: &str = "{name}";

use Parameters::{Lenient, Strict};

const ENDPOINTS: [Endpoint; 18] = [
    Endpoint { path: "/", parameters: Lenient(&[]), respond: dashboard_page },
    Endpoint { path: "/dashboard/{name}", parameters: Lenient(&[]), respond: dashboard_file },
    Endpoint { path: "/health", parameters: Lenient(&[]), respond: probes::health },
    Endpoint { path: "/ready", parameters: Lenient(&["any"]), respond: probes::ready },
    Endpoint { path: "/metrics", parameters: Lenient(&[]), respond: show_metrics },
    Endpoint {
        path: "/api/servers",
        parameters: Strict(&["pool", "active", "status", "limit", "after"]),
        respond: list_servers,
    },
    Endpoint { path: "/api/servers/{name}", parameters: Strict(&["pool"]), respond: one_server },
    Endpoint { path: "/api/random", parameters: Strict(&["pool"]), respond: random_server },
    Endpoint { path: "/api/pools", parameters: Strict(&[]), respond: list_pools },
    Endpoint { path: "/api/routes", parameters: Strict(&[]), respond: list_routes },
    Endpoint { path: "/api/listeners", parameters: Strict(&[]), respond: list_listeners },
    Endpoint { path: "/api/certificates", parameters: Strict(&["host"]), respond: list_certificates },
    Endpoint { path: "/api/config", parameters: Strict(&[]), respond: show_config },
    Endpoint { path: "/api/reloads", parameters: Strict(&["limit", "after"]), respond: list_reloads },
    Endpoint { path: "/api/events", parameters: Strict(&["figures"]), respond: subscribe },
    Endpoint { path: "/api/figures", parameters: Strict(&[]), respond: show_figures },
    Endpoint { path: "/api/history", parameters: Strict(&[]), respond: show_history },
    Endpoint { path: "/api/openapi.json", parameters: Strict(&[]), respond: show_openapi },
];

struct Endpoint {
    /// In OpenAPI's notation.
    path: &'static str,
    parameters: Parameters,
    respond: fn(&ApiRequest) -> Result<ApiResponse, ApiError>,
}

/// The query parameters of an endpoint.
#[derive(Clone, Copy)]
enum Parameters {
    /// Any other is an error.
    Strict(&'static [&'static str]),
    /// Others are ignored, because probes and scrapers add parameters of their own.
    Lenient(&'static [&'static str]),
}

/// A request that has reached its endpoint.
struct ApiRequest<'a> {
    head: &'a Parts,
    context: &'a AdminContext,
    snapshot: &'a Snapshot,
    /// The decoded segment in the place of [`NAME`], or empty.
    name: String,
    query: Query,
}

/// Builds the response to a request from the current state.
#[must_use]
pub fn respond(request: &Parts, context: &AdminContext) -> ApiResponse {
    let snapshot = context.state.snapshot.load_full();
    let mut response = dispatch(request, context, &snapshot).unwrap_or_else(ApiResponse::from);
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn dispatch(head: &Parts, context: &AdminContext, snapshot: &Snapshot) -> Result<ApiResponse, ApiError> {
    host::check(head, &snapshot.config.admin.hosts)?;
    if head.method != Method::GET && head.method != Method::HEAD {
        return Err(read_only(snapshot));
    }
    let (endpoint, name) = find(head.uri.path())?;
    let text = head.uri.query().unwrap_or_default();
    let query = match endpoint.parameters {
        Strict(known) => Query::parse(text, known)?,
        Lenient(known) => Query::parse_known(text, known)?,
    };
    (endpoint.respond)(&ApiRequest { head, context, snapshot, name, query })
}

fn read_only(snapshot: &Snapshot) -> ApiError {
    let file = snapshot.files.first().map_or(Path::new("lb.toml"), |file| &file.path).display();
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!(
            "this address is read-only; to change something, edit {file}: a [[server]] table adds a server, `enabled = \
             false` in it takes the server out of service. A saved edit takes effect at once; /api/reloads shows the \
             outcome"
        ),
    )
}

/// Finds the endpoint of a path, and the decoded segment in the place of [`NAME`].
fn find(path: &str) -> Result<(&'static Endpoint, String), ApiError> {
    for endpoint in &ENDPOINTS {
        if let Some(prefix) = endpoint.path.strip_suffix(NAME) {
            if let Some(name) = path.strip_prefix(prefix).filter(|name| !name.is_empty() && !name.contains('/')) {
                return Ok((endpoint, query::decode(name)?.into_owned()));
            }
        } else if endpoint.path == path {
            return Ok((endpoint, String::new()));
        }
    }
    Err(ApiError::not_found(format!("there is no {path}; /api/openapi.json lists every path")))
}

fn dashboard_page(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    dashboard::page(request.head)
}

fn dashboard_file(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    dashboard::file(&request.name, request.head)
}

fn show_metrics(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    Ok(with_type(metrics::CONTENT_TYPE, request.context.metrics.text()))
}

fn list_servers(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    let pool = request.pool()?;
    let active = request.query.one_of("active", &[true, false])?;
    let status = request.query.one_of("status", &Status::ALL)?;
    let limit = request.query.limit()?;
    let mut servers = view::servers(request.snapshot);
    // Before the filters, so that the cursor is found even if its server no longer matches them.
    if let Some(after) = request.query.get("after")
        && !servers.by_ref().any(|server| server.cursor() == after)
    {
        return Err(ApiError::bad_request(format!("server `{after}` no longer exists; start over without `after`")));
    }
    let mut servers = servers.filter(|server| {
        pool.is_none_or(|pool| pool == server.pool)
            && active.is_none_or(|active| active == server.is_active())
            && status.is_none_or(|status| status == server.status)
    });
    let page: Vec<ServerView> = servers.by_ref().take(limit).collect();
    let next = page.last().filter(|_| servers.next().is_some()).map(ServerView::cursor);
    list(request, "servers", &page, next)
}

fn one_server(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    let (name, pool) = (&*request.name, request.query.get("pool"));
    let matches = |server: &ServerView| server.name == name && pool.is_none_or(|pool| pool == server.pool);
    let servers: Vec<ServerView> = view::servers(request.snapshot).filter(matches).collect();
    let Some(first) = servers.first() else {
        let place = pool.map_or_else(String::new, |pool| format!(" in pool `{pool}`"));
        return Err(ApiError::not_found(format!("there is no server `{name}`{place}")));
    };
    let mut pools: Vec<&str> = servers.iter().map(|server| server.pool).collect();
    pools.dedup();
    if pools.len() > 1 {
        let detail =
            format!("there is a server `{name}` in each of the pools {}; choose one with `?pool=`", pools.join(", "));
        return Err(ApiError::new(StatusCode::CONFLICT, detail).with_pools(pools));
    }
    // If an edit moved the server to another address, the new one comes before the one that drains.
    json(first)
}

fn random_server(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    let pool = request.pool()?;
    let is_eligible = |server: &ServerView| server.is_active() && pool.is_none_or(|pool| pool == server.pool);
    let active: Vec<ServerView> = view::servers(request.snapshot).filter(is_eligible).collect();
    match fastrand::choice(&active) {
        Some(server) => json(server),
        None => Err(ApiError::unavailable("there is no active server")),
    }
}

fn list_pools(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    list(request, "pools", &view::pools(request.snapshot).collect::<Vec<_>>(), None)
}

fn list_routes(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    let routes = request.snapshot.config.routes.iter().zip(request.snapshot.routes.iter());
    list(
        request,
        "routes",
        &routes.map(|(route, live)| RouteView::new(route, live, request.snapshot)).collect::<Vec<_>>(),
        None,
    )
}

fn list_listeners(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    let listeners = request.context.state.listeners();
    list(request, "listeners", &listeners.iter().map(|listener| ListenerView::new(listener)).collect::<Vec<_>>(), None)
}

fn list_certificates(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    let mut certificates: Vec<_> = view::certificates(request.snapshot).collect();
    if let Some(host) = request.query.get("host") {
        certificates = view::certificates_for(certificates, request.snapshot, host);
    }
    list(request, "certificates", &certificates, None)
}

fn show_config(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    let state = &request.context.state;
    let last = state.reloads().last_outcome();
    json(&ConfigView::new(request.snapshot, last, &warnings(state, request.snapshot)))
}

fn list_reloads(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    let limit = request.query.limit()?;
    let after = match request.query.get("after") {
        Some(given) => {
            query::integer(given).ok_or_else(|| ApiError::bad_request("`after` must be the value of `next`"))?
        }
        None => u64::MAX,
    };
    let mut reloads = view::numbered_reloads(&request.context.state.reloads());
    reloads.retain(|(number, _)| *number < after);
    let next = reloads.get(limit).and_then(|_| reloads.get(limit - 1)).map(|(number, _)| number.to_string());
    let page: Vec<ReloadView> = reloads.iter().take(limit).map(|(_, reload)| ReloadView::new(reload)).collect();
    list(request, "reloads", &page, next)
}

/// Responds with the head of an event stream; the caller attaches the stream itself.
fn subscribe(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    let figures = request.query.one_of("figures", &[true, false])?.unwrap_or_default();
    // A value that is not text is not the id of any event.
    let last_id = request.head.headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default());
    let subscription = request.context.feed.subscribe(last_id, figures)?;
    let mut response = with_type(EVENTS, "");
    // Keeps nginx and others from buffering the stream.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.extensions_mut().insert(subscription);
    Ok(response)
}

fn show_figures(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    let state = &request.context.state;
    json(&FiguresView::new(state, request.snapshot, &state.listeners(), &request.context.feed.history()))
}

fn show_history(request: &ApiRequest) -> Result<ApiResponse, ApiError> {
    json(&HistoryView::new(request.snapshot.generation, &request.context.feed.history()))
}

fn show_openapi(_: &ApiRequest) -> Result<ApiResponse, ApiError> {
    Ok(with_type(JSON, OPENAPI))
}

impl<'a> ApiRequest<'a> {
    /// The pool that `?pool=` selects.
    fn pool(&self) -> Result<Option<&'a str>, ApiError> {
        let pools: Vec<&str> = self.snapshot.pools.iter().map(|pool| &*pool.live.name).collect();
        self.query.one_of("pool", &pools)
    }
}

/// Responds with an object of one named array, the generation and, if there are further entries, `next`.
fn list(
    request: &ApiRequest,
    name: &'static str,
    entries: &[impl Serialize],
    next: Option<String>,
) -> Result<ApiResponse, ApiError> {
    #[derive(Serialize)]
    struct ListView<'a, T> {
        generation: u64,
        #[serde(flatten)]
        entries: BTreeMap<&'static str, &'a [T]>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }
    json(&ListView { generation: request.snapshot.generation, entries: [(name, entries)].into(), next })
}

fn json(value: &impl Serialize) -> Result<ApiResponse, ApiError> {
    let mut text = serde_json::to_string(value).map_err(|error| {
        // For example a path that is not UTF-8, or a clock beyond the year 9999.
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("this cannot be represented as JSON: {error}"))
    })?;
    text.push('\n');
    Ok(with_type(JSON, text))
}

pub(super) fn with_type(content_type: &'static str, body: impl Into<Bytes>) -> ApiResponse {
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn openapi_describes_exactly_the_endpoints_and_their_parameters() {
        let document: Value = serde_json::from_str(OPENAPI).expect("valid JSON");
        let described = document["paths"].as_object().expect("paths").iter().map(|(path, item)| {
            let parameters = item["get"]["parameters"].as_array().into_iter().flatten();
            let in_query = parameters.filter(|parameter| parameter["in"] == "query");
            let names = in_query.map(|parameter| parameter["name"].as_str().expect("a name"));
            let is_lenient = item["get"]["x-unknown-parameters"] == "ignored";
            (path.as_str(), names.collect::<BTreeSet<_>>(), is_lenient)
        });
        let served = ENDPOINTS.iter().map(|endpoint| {
            let (Strict(known) | Lenient(known)) = endpoint.parameters;
            (endpoint.path, known.iter().copied().collect(), matches!(endpoint.parameters, Lenient(_)))
        });
        assert_eq!(described.collect::<BTreeSet<_>>(), served.collect::<BTreeSet<_>>());
    }

    #[test]
    fn openapi_references_resolve() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(members) => {
                    found.extend(members.get("$ref").and_then(Value::as_str));
                    members.values().for_each(|value| references(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document: Value = serde_json::from_str(OPENAPI).expect("valid JSON");
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn paths_are_matched_exactly() {
        let cases = [
            ("/", Some(("/", ""))),
            ("/health", Some(("/health", ""))),
            ("/api/servers", Some(("/api/servers", ""))),
            ("/api/servers/server1", Some(("/api/servers/{name}", "server1"))),
            ("/api/servers/server%31", Some(("/api/servers/{name}", "server1"))),
            ("/api/servers/{name}", Some(("/api/servers/{name}", "{name}"))),
            ("/api/servers/%zz", None),
            ("/api/servers/", None),
            ("/api/servers/a/b", None),
            ("/dashboard/main.js", Some(("/dashboard/{name}", "main.js"))),
            ("/dashboard/../health", None),
            ("/health/", None),
            ("/Health", None),
            ("//health", None),
            ("/api", None),
            ("*", None),
            ("", None),
        ];
        for (path, expected) in cases {
            let found = find(path).ok();
            let found = found.as_ref().map(|(endpoint, name)| (endpoint.path, name.as_str()));
            assert_eq!(found, expected, "{path}");
        }
    }
}
