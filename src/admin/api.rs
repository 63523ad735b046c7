//! The endpoints: which paths there are, with which parameters, and what each answers. No sockets here.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde_json::json;

use super::refusal::ApiError;
use super::{Answer, Context, dashboard, host};
use crate::admin::figures::{Figures, Samples};
use crate::admin::query::{self, Query};
use crate::admin::view::{self, Configuration, Listener, Reload, Route, Server, Truth};
use crate::live::pool::Status;
use crate::live::snapshot::Snapshot;
use crate::telemetry::metrics;

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// This table as OpenAPI; a test compares the two.
const OPENAPI: &str = include_str!("openapi.json");

/// What stands in an endpoint's path for a server's name.
const NAME: &str = "{name}";

const ENDPOINTS: [Endpoint; 17] = [
    Endpoint { path: "/", parameters: None, answer: page },
    Endpoint { path: "/dashboard/{name}", parameters: None, answer: part },
    Endpoint { path: "/health", parameters: None, answer: health },
    Endpoint { path: "/ready", parameters: None, answer: ready },
    Endpoint { path: "/metrics", parameters: None, answer: show_metrics },
    Endpoint {
        path: "/api/servers",
        parameters: Some(&["pool", "active", "status", "limit", "after"]),
        answer: list_servers,
    },
    Endpoint { path: "/api/servers/{name}", parameters: Some(&["pool"]), answer: one_server },
    Endpoint { path: "/api/random", parameters: Some(&["pool"]), answer: random_server },
    Endpoint { path: "/api/pools", parameters: Some(&[]), answer: list_pools },
    Endpoint { path: "/api/routes", parameters: Some(&[]), answer: list_routes },
    Endpoint { path: "/api/listeners", parameters: Some(&[]), answer: list_listeners },
    Endpoint { path: "/api/config", parameters: Some(&[]), answer: show_config },
    Endpoint { path: "/api/reloads", parameters: Some(&["limit", "after"]), answer: list_reloads },
    Endpoint { path: "/api/events", parameters: Some(&["figures"]), answer: follow },
    Endpoint { path: "/api/figures", parameters: Some(&[]), answer: show_figures },
    Endpoint { path: "/api/history", parameters: Some(&[]), answer: show_history },
    Endpoint { path: "/api/openapi.json", parameters: Some(&[]), answer: openapi },
];

/// A path, and what is there.
struct Endpoint {
    /// As OpenAPI writes it.
    path: &'static str,
    /// What its query may hold; `None` where a query does not matter, as probes put things there.
    parameters: Option<&'static [&'static str]>,
    answer: fn(&Asked) -> Result<Answer, ApiError>,
}

/// A request that has found its endpoint.
struct Asked<'a> {
    request: &'a Parts,
    context: &'a Context,
    snapshot: &'a Snapshot,
    /// What stood in the place of [`NAME`].
    name: String,
    query: Query,
}

/// Answers a request from what is known now.
#[must_use]
pub fn answer(request: &Parts, context: &Context) -> Answer {
    let snapshot = context.state.snapshot.load_full();
    let mut answer = respond(request, context, &snapshot).unwrap_or_else(Answer::from);
    let headers = answer.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

fn respond(request: &Parts, context: &Context, snapshot: &Snapshot) -> Result<Answer, ApiError> {
    host::check(request, &snapshot.config.admin.hosts)?;
    if request.method != Method::GET && request.method != Method::HEAD {
        return Err(read_only(snapshot));
    }
    let (endpoint, name) = find(request.uri.path())?;
    let query = match endpoint.parameters {
        Some(known) => Query::parse(request.uri.query().unwrap_or_default(), known)?,
        None => Query::default(),
    };
    (endpoint.answer)(&Asked { request, context, snapshot, name, query })
}

fn read_only(snapshot: &Snapshot) -> ApiError {
    let file = snapshot.files.first().map_or(Path::new("lb.toml"), |file| &file.path).display();
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!(
            "this address only tells; to change something, edit {file}: to add a server write a [[server]] table, to \
             switch one off `enabled = false` under it. A saved edit takes effect at once, and /api/reloads says what \
             came of it"
        ),
    )
}

/// The endpoint at a path, with what stands there in the place of [`NAME`].
fn find(path: &str) -> Result<(&'static Endpoint, String), ApiError> {
    for endpoint in &ENDPOINTS {
        let Some(before) = endpoint.path.strip_suffix(NAME) else {
            if endpoint.path == path {
                return Ok((endpoint, String::new()));
            }
            continue;
        };
        if let Some(name) = path.strip_prefix(before).filter(|name| !name.is_empty() && !name.contains('/')) {
            let name =
                query::decode(name).ok_or_else(|| ApiError::bad(format!("`{name}` is not percent-encoded UTF-8")))?;
            return Ok((endpoint, name));
        }
    }
    Err(ApiError::new(
        StatusCode::NOT_FOUND,
        format!("there is nothing at {path}; /api/openapi.json lists what there is"),
    ))
}

fn page(asked: &Asked) -> Result<Answer, ApiError> {
    dashboard::page(asked.request)
}

fn part(asked: &Asked) -> Result<Answer, ApiError> {
    dashboard::part(&asked.name, asked.request)
}

fn health(asked: &Asked) -> Result<Answer, ApiError> {
    if asked.context.state.is_stopping() {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "shutting down"));
    }
    json(&json!({ "generation": asked.snapshot.generation, "status": "serving" }))
}

fn ready(asked: &Asked) -> Result<Answer, ApiError> {
    if asked.context.state.is_stopping() {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "shutting down"));
    }
    let unready: Vec<&str> = asked.snapshot.unready().map(|pool| &*pool.live.name).collect();
    if !unready.is_empty() {
        let detail = format!("no server takes requests in the pools: {}", unready.join(", "));
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail).about(unready));
    }
    let truth = Truth::of(asked.snapshot, !asked.context.state.reloads().last_successful());
    json(&json!({ "generation": asked.snapshot.generation, "status": "ready", "config": truth }))
}

fn show_metrics(asked: &Asked) -> Result<Answer, ApiError> {
    Ok(with_type(metrics::CONTENT_TYPE, asked.context.metrics.text()))
}

fn list_servers(asked: &Asked) -> Result<Answer, ApiError> {
    let pool = asked.pool()?;
    let active = asked.query.one_of("active", &[true, false])?;
    let status = asked.query.one_of("status", &Status::ALL)?;
    let limit = asked.query.limit()?;
    let mut servers = view::servers(asked.snapshot);
    // Before the filters, so that a server is found even if it has changed since its page was asked for.
    if let Some(after) = asked.query.get("after")
        && !servers.by_ref().any(|server| server.cursor() == after)
    {
        return Err(ApiError::bad(format!("there is no server `{after}`, or no longer; ask again without `after`")));
    }
    let mut servers = servers.filter(|server| {
        pool.is_none_or(|pool| pool == server.pool)
            && active.is_none_or(|active| active == server.is_active())
            && status.is_none_or(|status| status == server.status)
    });
    let page: Vec<Server> = servers.by_ref().take(limit).collect();
    let next = page.last().filter(|_| servers.next().is_some()).map(Server::cursor);
    list(asked, "servers", &page, next)
}

fn one_server(asked: &Asked) -> Result<Answer, ApiError> {
    let (name, pool) = (&*asked.name, asked.query.get("pool"));
    let named = |server: &Server| server.name == name && pool.is_none_or(|pool| pool == server.pool);
    let found: Vec<Server> = view::servers(asked.snapshot).filter(named).collect();
    let Some(first) = found.first() else {
        let place = pool.map_or_else(String::new, |pool| format!(" in a pool `{pool}`"));
        return Err(ApiError::new(StatusCode::NOT_FOUND, format!("there is no server `{name}`{place}")));
    };
    let mut pools: Vec<&str> = found.iter().map(|server| server.pool).collect();
    pools.dedup();
    if pools.len() > 1 {
        let detail = format!("there is a `{name}` in each of the pools {}; say which by `?pool=`", pools.join(", "));
        return Err(ApiError::new(StatusCode::CONFLICT, detail).about(pools));
    }
    // One that is in the file stands before its namesake that is leaving.
    json(first)
}

fn random_server(asked: &Asked) -> Result<Answer, ApiError> {
    let pool = asked.pool()?;
    let takes = |server: &Server| server.is_active() && pool.is_none_or(|pool| pool == server.pool);
    let active: Vec<Server> = view::servers(asked.snapshot).filter(takes).collect();
    match fastrand::choice(&active) {
        Some(server) => json(server),
        None => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no server takes requests now")),
    }
}

fn list_pools(asked: &Asked) -> Result<Answer, ApiError> {
    list(asked, "pools", &view::pools(asked.snapshot).collect::<Vec<_>>(), None)
}

fn list_routes(asked: &Asked) -> Result<Answer, ApiError> {
    let routes = asked.snapshot.config.routes.iter().zip(asked.snapshot.routes.iter());
    list(asked, "routes", &routes.map(|(route, live)| Route::new(route, live)).collect::<Vec<_>>(), None)
}

fn list_listeners(asked: &Asked) -> Result<Answer, ApiError> {
    let listeners = asked.context.state.listeners();
    list(asked, "listeners", &listeners.iter().map(|listener| Listener::new(listener)).collect::<Vec<_>>(), None)
}

fn show_config(asked: &Asked) -> Result<Answer, ApiError> {
    let state = &asked.context.state;
    let rejected = !state.reloads().last_successful();
    json(&Configuration::new(asked.snapshot, rejected, &state.watch_status.warnings()))
}

fn list_reloads(asked: &Asked) -> Result<Answer, ApiError> {
    let limit = asked.query.limit()?;
    let after = match asked.query.get("after") {
        Some(given) => given.parse().map_err(|_| ApiError::bad("`after` is the number that `next` said"))?,
        None => u64::MAX,
    };
    let mut reloads = view::reloads(&asked.context.state.reloads());
    reloads.retain(|(number, _)| *number < after);
    let next = reloads.get(limit).and_then(|_| reloads.get(limit - 1)).map(|(number, _)| number.to_string());
    let page: Vec<Reload> = reloads.iter().take(limit).map(|(_, reload)| Reload::new(reload)).collect();
    list(asked, "reloads", &page, next)
}

/// What this answers becomes a stream where it is sent.
fn follow(asked: &Asked) -> Result<Answer, ApiError> {
    let figures = asked.query.one_of("figures", &[true, false])?.unwrap_or_default();
    // What is not text is the id of nothing.
    let last = asked.request.headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default());
    let follower = asked.context.feed.follow(last, figures)?;
    let mut answer = with_type(EVENTS, "");
    // Told to proxies that would rather wait until it ends.
    answer.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    answer.extensions_mut().insert(follower);
    Ok(answer)
}

fn show_figures(asked: &Asked) -> Result<Answer, ApiError> {
    let state = &asked.context.state;
    json(&Figures::new(state, asked.snapshot, &state.listeners(), &asked.context.feed.history()))
}

fn show_history(asked: &Asked) -> Result<Answer, ApiError> {
    json(&Samples::new(asked.snapshot.generation, &asked.context.feed.history()))
}

fn openapi(_: &Asked) -> Result<Answer, ApiError> {
    Ok(with_type(JSON, OPENAPI))
}

impl<'a> Asked<'a> {
    /// The pool that `?pool=` names.
    fn pool(&self) -> Result<Option<&'a str>, ApiError> {
        let pools: Vec<&str> = self.snapshot.pools.iter().map(|pool| &*pool.live.name).collect();
        self.query.one_of("pool", &pools)
    }
}

/// An object of one array, beside the generation and, where there is more, what `?after=` goes on from.
fn list(
    asked: &Asked,
    name: &'static str,
    entries: &[impl Serialize],
    next: Option<String>,
) -> Result<Answer, ApiError> {
    #[derive(Serialize)]
    struct List<'a, T> {
        generation: u64,
        #[serde(flatten)]
        entries: BTreeMap<&'static str, &'a [T]>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }
    json(&List { generation: asked.snapshot.generation, entries: [(name, entries)].into(), next })
}

fn json(value: &impl Serialize) -> Result<Answer, ApiError> {
    let mut text = serde_json::to_string(value).map_err(|error| {
        // A path that is not UTF-8, or a clock beyond the year 9999.
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("this cannot be told as JSON: {error}"))
    })?;
    text.push('\n');
    Ok(with_type(JSON, text))
}

pub(super) fn with_type(content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn openapi_tells_of_every_path_and_parameter_and_of_no_other() {
        let document: Value = serde_json::from_str(OPENAPI).expect("valid JSON");
        let told = document["paths"].as_object().expect("paths").iter().map(|(path, item)| {
            let parameters = item["get"]["parameters"].as_array().into_iter().flatten();
            let of_query = parameters.filter(|parameter| parameter["in"] == "query");
            let names = of_query.map(|parameter| parameter["name"].as_str().expect("a name"));
            (path.as_str(), names.collect::<BTreeSet<_>>())
        });
        let known = ENDPOINTS
            .iter()
            .map(|endpoint| (endpoint.path, endpoint.parameters.unwrap_or_default().iter().copied().collect()));
        assert_eq!(told.collect::<BTreeSet<_>>(), known.collect::<BTreeSet<_>>());
    }

    #[test]
    fn openapi_refers_to_nothing_that_is_missing() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str));
                    fields.values().for_each(|value| references(value, found));
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
    fn a_path_leads_to_its_endpoint() {
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
