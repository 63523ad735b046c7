//! `lb demo`: three demo servers and the balancer in one process, to try edits on.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use backends::{Options, Server};

use crate::cli::run::{on_control_plane, serve};
use crate::config::schema;
use crate::control::gateway::StartError;
use crate::control::reload::reader::env;
use crate::control::reload::source;
use crate::worker::socket::BindError;

/// What is written where there is no configuration yet.
const FIRST: &str = include_str!("demo.toml");
const SERVERS: [(&str, u16); 3] = [("server1", 8081), ("server2", 8082), ("server3", 8083)];

/// Serves the configuration at `path`, which is written if it is missing, and three servers for it.
#[must_use]
pub fn demo(path: &Path) -> ExitCode {
    let written = match write_first(path) {
        Ok(written) => written,
        Err(error) => return super::fail(&format_args!("cannot write {}: {error}", path.display())),
    };
    on_control_plane(async {
        // Their spans go where the balancer's go when it starts.
        let config = source::load(path, &env).result.map_err(StartError::Config)?;
        let mut servers = Vec::new();
        let mut taken = Vec::new();
        for (name, port) in SERVERS {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let options = Options { zipkin: config.tracing.zipkin.clone(), ..Options::new(name, address) };
            match Server::bind(options).await {
                Ok(server) => servers.push(server),
                // Its own words name the address too.
                Err(error) => taken.push(BindError { address, error: error.kind().into() }),
            }
        }
        if !taken.is_empty() {
            return Err(StartError::Bind(taken));
        }
        for server in servers {
            tokio::spawn(server.run(std::future::pending()));
        }
        serve(path, || greet(path, written, &config)).await
    })
}

/// Writes the first configuration, unless there is one. Whether it did.
fn write_first(path: &Path) -> io::Result<bool> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            // Its first line names the schema. Nothing but an editor's help is lost without it.
            let beside = OpenOptions::new().write(true).create_new(true).open(path.with_file_name(schema::FILE));
            let _ = beside.and_then(|mut file| file.write_all(schema::text().as_bytes()));
            file.write_all(FIRST.as_bytes()).map(|()| true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn greet(path: &Path, written: bool, config: &crate::config::Config) {
    let file = path.display();
    let entry = config.listeners.first().map_or_else(String::new, |listener| listener.address.to_string());
    let admin = config.admin.address;
    let begin = if written { format!("{file} was written.") } else { format!("{file} was there already and is used.") };
    super::say(&format!(
        "{begin} server1, server2 and server3 are on ports 8081, 8082 and 8083.\n\
         \n\
         Try, in another terminal:\n\
         \x20 for i in $(seq 11); do curl -s http://{entry}/ | head -1; done   # by weight, 2 : 3 : 6\n\
         \x20 curl -s http://{admin}/api/servers                               # who is up, and who gets what\n\
         \x20 curl -s -X POST http://127.0.0.1:8083/health/fail                # server3 fails its checks; /health/pass ends that\n\
         \n\
         Then change a weight in {file}, or write `enabled = false` under a server, and save:\n\
         \x20 curl -s http://{admin}/api/reloads                               # what the edit changed, or why it was refused\n\
         \n\
         Ctrl+C ends it.\n"
    ));
}
