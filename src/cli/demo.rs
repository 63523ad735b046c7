//! `lb demo`: three demo servers and the balancer in one process, for trying out edits.

mod tls;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use backends::{Options, Server};

use self::tls::DemoCertificate;
use super::output::{fail, print, within};
use crate::cli::run::{on_control_plane, serve};
use crate::config::{Config, reachable, schema};
use crate::control::gateway::StartError;
use crate::control::reload::reader::env;
use crate::control::reload::source;
use crate::worker::socket::BindError;

/// The configuration that is written if there is none.
const DEMO_CONFIG: &str = include_str!("demo.toml");
const SERVERS: [(&str, u16); 3] = [("server1", 8081), ("server2", 8082), ("server3", 8083)];

/// Serves the configuration at `path`, which is written if it is missing, together with three servers. With `tls`, there is
/// a listener for HTTPS too.
#[must_use]
pub fn demo(path: &Path, tls: bool) -> ExitCode {
    let directory = path.with_file_name(tls::DIRECTORY);
    let certificate = tls.then(|| DemoCertificate::within(&directory));
    if let Some(certificate) = &certificate
        && let Err(failed) = create_certificate(certificate, &directory)
    {
        return failed;
    }
    let created = match create_config(path, tls) {
        Ok(created) => created,
        Err(error) => return fail(&format_args!("cannot write {}: {error}", path.display())),
    };
    on_control_plane(path, async |signals| {
        // The servers report their spans to the collector that the configuration names at start.
        let config = source::load(path, &env).result.map_err(StartError::Config)?;
        for server in bind_servers(&config).await? {
            tokio::spawn(server.run(std::future::pending()));
        }
        let greeting = greeting(path, created, &config, certificate.as_ref());
        // The servers share this thread, so it does not wait for a terminal that is paused.
        serve(path, signals, || within(Duration::ZERO, move || print(&greeting))).await
    })
}

/// Makes the certificate of the demo in `directory`, unless it has a valid one.
#[must_use]
pub fn certificate(directory: &Path) -> ExitCode {
    match create_certificate(&DemoCertificate::within(directory), directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => failed,
    }
}

fn create_certificate(certificate: &DemoCertificate, directory: &Path) -> Result<(), ExitCode> {
    certificate
        .create(SystemTime::now())
        .map_err(|error| fail(&format_args!("cannot write a certificate to {}: {error}", directory.display())))
}

/// Writes the demo configuration unless the file exists. Returns whether it did.
fn create_config(path: &Path, tls: bool) -> io::Result<bool> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            // The configuration's first line names the schema. Only editors use that, so a failure is ignored.
            let schema_file = OpenOptions::new().write(true).create_new(true).open(path.with_file_name(schema::FILE));
            let _ = schema_file.and_then(|mut file| file.write_all(schema::text().as_bytes()));
            file.write_all(DEMO_CONFIG.as_bytes())?;
            if tls {
                file.write_all(tls::CONFIG.as_bytes())?;
            }
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Binds all servers, or reports every address that cannot be bound.
async fn bind_servers(config: &Config) -> Result<Vec<Server>, StartError> {
    let mut servers = Vec::new();
    let mut errors = Vec::new();
    let zipkin = config.tracing.zipkin.as_ref().map(|url| url.expose().to_owned());
    for (name, port) in SERVERS {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let options = Options { zipkin: zipkin.clone(), ..Options::new(name, address) };
        match Server::bind(options).await {
            Ok(server) => servers.push(server),
            // The server's own message names the address too, so only the kind is kept.
            Err(error) => errors.push(BindError { address: address.into(), error: error.kind().into() }),
        }
    }
    if errors.is_empty() { Ok(servers) } else { Err(StartError::Bind(errors, Vec::new())) }
}

fn greeting(path: &Path, created: bool, config: &Config, certificate: Option<&DemoCertificate>) -> String {
    let file = path.display();
    let listener =
        config.listeners.first().map_or_else(String::new, |listener| reachable(&listener.address).to_string());
    let admin = reachable(&config.admin.address);
    let origin = if created { format!("{file} was written.") } else { format!("Using the existing {file}.") };
    let https = certificate.map_or_else(String::new, |certificate| https(certificate, config));
    format!(
        "{origin} server1, server2 and server3 are on ports 8081, 8082 and 8083.\n\
         \n\
         Try this in another terminal:\n\
         \x20 for i in $(seq 11); do curl -s http://{listener}/ | head -1; done   # by weight, 2 : 3 : 6\n\
         {https}\
         \x20 curl -s http://{admin}/api/servers                               # each server's status and share\n\
         \x20 curl -s -X POST http://127.0.0.1:8083/health/fail                # server3 fails its checks until POST /health/pass\n\
         \n\
         Then change a weight in {file}, or add `enabled = false` to a server, and save:\n\
         \x20 curl -s http://{admin}/api/reloads                               # what the edit changed, or why it was rejected\n\
         \n\
         Open http://{admin}/ for the dashboard. Press Ctrl+C to stop.\n"
    )
}

/// The line that tries HTTPS, or those that the configuration lacks for it.
fn https(certificate: &DemoCertificate, config: &Config) -> String {
    let mut with_tls = config.listeners.iter().filter(|listener| listener.tls.is_some());
    match with_tls.find_map(|listener| listener.address.ip()) {
        Some(address) => {
            let (authority, port) = (certificate.authority.display(), address.port());
            format!("\x20 curl -s --cacert {authority} https://localhost:{port}/\n")
        }
        None => format!("\nFor HTTPS, add this to the file:\n{}\n", tls::CONFIG),
    }
}
