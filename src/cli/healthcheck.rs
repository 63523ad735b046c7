//! `lb healthcheck`: asks the balancer of a file whether it is ready, for containers without curl.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::source;
use crate::reload::reader::env;

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of the answer, only the status is of interest.
const ENOUGH: u64 = 4096;

/// Exits with 0 if the balancer of the configuration at `path` answers `/ready` with 200.
#[must_use]
pub fn healthcheck(path: &Path) -> ExitCode {
    let config = match source::load(path, &env).result {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                super::fail(&problem);
            }
            return ExitCode::from(super::BAD_INPUT);
        }
    };
    let address = reachable(config.admin.address);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return super::fail(&error),
    };
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(address)).await });
    match answer {
        Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200 ") => ExitCode::SUCCESS,
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

/// Who listens on all addresses is asked at the local one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
