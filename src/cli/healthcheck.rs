//! `lb healthcheck`: asks the balancer of a file whether it is ready, for containers without curl.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::api::reachable;
use crate::config::file;
use crate::control::reload::reader::env;
use crate::control::reload::source::Source;

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of the answer, only the status is of interest.
const ENOUGH: u64 = 4096;

/// Exits with 0 if the balancer of the configuration at `path` answers `/ready` with 200.
///
/// A file with problems, which a running balancer refuses, makes nobody unhealthy: of such a one
/// the admin address is taken all the same.
#[must_use]
pub fn healthcheck(path: &Path) -> ExitCode {
    let sources = Source::new(path).read(&env);
    let address = reachable(file::admin(&sources.files, &env).address);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return super::fail(&error),
    };
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(address)).await });
    if let Ok(Ok(answer)) = &answer
        && answer.starts_with("HTTP/1.1 200 ")
    {
        return ExitCode::SUCCESS;
    }
    // Where there is no file, the address is a guess.
    for problem in &sources.problems {
        super::fail(problem);
    }
    match answer {
        Ok(Ok(answer)) => super::fail(&format_args!("not ready: {}", answer.lines().last().unwrap_or("no answer"))),
        Ok(Err(error)) => super::fail(&format_args!("no answer from {address}: {error}")),
        Err(_) => super::fail(&format_args!("no answer from {address} in {PATIENCE:?}")),
    }
}

async fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ENOUGH).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
