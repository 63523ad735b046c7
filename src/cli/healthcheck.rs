//! `lb healthcheck`: asks the balancer of a configuration whether it is ready, for containers without curl.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{Request, Response, StatusCode};

use super::api::reachable;
use crate::config::file;
use crate::control::reload::reader::env;
use crate::control::reload::source::Source;
use crate::http_client::{HttpConnection, SendError};

const TIMEOUT: Duration = Duration::from_secs(3);
/// The longest response body that is read; a balancer's has one line.
const BODY_LIMIT: usize = 64 * 1024;

/// Exits with 0 if the balancer of the configuration at `path` responds to `/ready` with 200.
///
/// A file with problems does not make a running balancer unhealthy, because it rejects the edit and
/// goes on; so the admin address is read from such a file too.
#[must_use]
pub fn healthcheck(path: &Path) -> ExitCode {
    let sources = Source::new(path).read(&env);
    let address = reachable(file::admin(&sources.files, &env).address);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return super::fail(&error),
    };
    let response = runtime.block_on(get_ready(address));
    if response.as_ref().is_ok_and(|response| response.status() == StatusCode::OK) {
        return ExitCode::SUCCESS;
    }
    // Without a file, the address is only the default.
    for problem in &sources.problems {
        super::fail(problem);
    }
    match response {
        Ok(response) => {
            let text = String::from_utf8_lossy(response.body());
            let status = response.status().to_string();
            super::fail(&format_args!("not ready: {}", text.lines().last().unwrap_or(&status)))
        }
        Err(error) => super::fail(&format_args!("no response from {address}: {error}")),
    }
}

async fn get_ready(address: SocketAddr) -> Result<Response<Bytes>, SendError> {
    let connection = HttpConnection::open(address, TIMEOUT).await?;
    let request = Request::get("/ready").header(HOST, address.to_string()).header(CONNECTION, "close");
    connection.send(request.body(Bytes::new())?, Some(BODY_LIMIT)).await
}
