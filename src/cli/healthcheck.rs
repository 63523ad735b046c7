//! `lb healthcheck`: asks the balancer of a configuration whether it is ready, for containers without curl.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, SERVER};
use http::{Request, Response, StatusCode};
use serde::Deserialize;

use super::api::reachable;
use crate::config::{SocketAddress, file};
use crate::control::reload::reader::env;
use crate::control::reload::source::Source;
use crate::http_client::{HttpConnection, SendError};

const TIMEOUT: Duration = Duration::from_secs(3);
/// The longest response body that is read; a balancer's has one line.
const BODY_LIMIT: usize = 64 * 1024;

/// The condition under which a balancer is healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Every pool that a route reaches has an available server.
    Ready,
    /// Some pool does.
    AnyReady,
    /// The process serves.
    Alive,
}

/// The body of a balancer's response with 200, which other programs do not send.
#[derive(Deserialize)]
struct HealthyBody {
    #[serde(rename = "generation")]
    _generation: u64,
    status: HealthyStatus,
}

/// The body of a balancer's other responses.
#[derive(Deserialize)]
struct UnhealthyBody {
    status: u16,
    #[serde(rename = "detail")]
    _detail: String,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum HealthyStatus {
    Serving,
    Ready,
}

impl Condition {
    fn path(self) -> &'static str {
        match self {
            Self::Ready => "/ready",
            Self::AnyReady => "/ready?any",
            Self::Alive => "/health",
        }
    }

    /// The status of a balancer that meets it.
    fn status(self) -> HealthyStatus {
        match self {
            Self::Ready | Self::AnyReady => HealthyStatus::Ready,
            Self::Alive => HealthyStatus::Serving,
        }
    }

    fn failure(self) -> &'static str {
        match self {
            Self::Ready | Self::AnyReady => "not ready",
            Self::Alive => "not alive",
        }
    }
}

/// Exits with 0 if the balancer of the configuration at `path` says that it meets `condition`.
///
/// A file with problems does not make a running balancer unhealthy, because it rejects the edit and
/// goes on; so the admin address is read from such a file too.
#[must_use]
pub fn healthcheck(path: &Path, condition: Condition) -> ExitCode {
    let sources = Source::new(path).read(&env);
    let address = reachable(&file::admin(&sources.files, &env).address);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return super::fail(&error),
    };
    let response = runtime.block_on(get(&address, condition.path()));
    let failure = match response {
        Ok(response) => failure(&response, &address, condition),
        Err(error) => Some(format!("no response from {address}: {error}")),
    };
    let Some(failure) = failure else { return ExitCode::SUCCESS };
    // Without a file, the address is only the default.
    for problem in &sources.problems {
        super::fail(problem);
    }
    super::fail(&failure)
}

/// Why a response does not show that the balancer at `address` meets `condition`.
fn failure(response: &Response<Bytes>, address: &SocketAddress, condition: Condition) -> Option<String> {
    let (status, body) = (response.status(), response.body());
    let healthy = serde_json::from_slice::<HealthyBody>(body).is_ok_and(|body| body.status == condition.status());
    if status == StatusCode::OK && healthy {
        return None;
    }
    let is_problem =
        serde_json::from_slice::<UnhealthyBody>(body).is_ok_and(|problem| problem.status == status.as_u16());
    if is_problem {
        let text = String::from_utf8_lossy(body);
        return Some(format!("{}: {}", condition.failure(), text.trim_end()));
    }
    let server = response.headers().get(SERVER).and_then(|server| server.to_str().ok());
    let server = server.map_or_else(String::new, |server| format!(", with `Server: {server}`"));
    let path = condition.path();
    Some(format!(
        "the program at {address} is not lb: it responds to {path} with {status}{server}, but not as lb does; stop it, or \
         give lb another `address` in [admin]"
    ))
}

async fn get(address: &SocketAddress, path: &str) -> Result<Response<Bytes>, SendError> {
    let connection = HttpConnection::open_at(address, TIMEOUT).await?;
    let request = Request::get(path).header(HOST, address.host()).header(CONNECTION, "close");
    connection.send(request.body(Bytes::new())?, Some(BODY_LIMIT)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_response_of_a_balancer_that_meets_the_condition_is_healthy() {
        use Condition::{Alive, AnyReady, Ready};
        let (ready, serving) = (r#"{"generation":2,"status":"ready"}"#, r#"{"generation":2,"status":"serving"}"#);
        let cases = [
            (200, ready, Ready, None),
            (200, ready, AnyReady, None),
            (200, serving, Alive, None),
            (200, serving, Ready, Some("is not lb")),
            (200, "OK\n", Ready, Some("is not lb")),
            (200, "", Alive, Some("is not lb")),
            (200, r#"{"status":"ready"}"#, Ready, Some("is not lb")),
            (204, "", Ready, Some("is not lb")),
            (404, "<html>", AnyReady, Some("is not lb: it responds to /ready?any with 404 Not Found, but")),
            (503, r#"{"status":"DOWN"}"#, AnyReady, Some("is not lb")),
            (503, "{\"status\":503,\"detail\":\"stopping\"}\n", Alive, Some("not alive: {\"status\":503,")),
        ];
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9900)).into();
        for (status, body, condition, expected) in cases {
            let response = Response::builder().status(status).body(Bytes::from(body)).expect("a response");
            let found = failure(&response, &address, condition);
            assert_eq!(found.is_some(), expected.is_some(), "{status} {body}");
            assert!(found.is_none_or(|found| expected.is_some_and(|part| found.contains(part))), "{status} {body}");
        }
    }
}
