//! `demo-server`: one demo server as a process, and the health check of its image.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use backends::{Options, Server, healthcheck};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// A small HTTP server to balance requests over, which responds with its name
#[derive(Debug, Parser)]
#[command(version)]
struct DemoServerArgs {
    /// Name of the server
    #[arg(long, env = "NAME", default_value = "server1")]
    name: String,

    /// Address to listen on; port 0 for any free one
    #[arg(long, env = "ADDRESS", default_value = "127.0.0.1:8081", global = true)]
    address: SocketAddr,

    /// URL of Zipkin's collector, such as http://127.0.0.1:9411/api/v2/spans; empty to trace nothing
    #[arg(long, env = "ZIPKIN_URL", default_value = "", hide_default_value = true)]
    zipkin: String,

    #[command(subcommand)]
    command: Option<DemoServerCommand>,
}

#[derive(Debug, Subcommand)]
enum DemoServerCommand {
    /// Check the server at the address; exit with 0 if it is healthy, otherwise 1
    Healthcheck,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = DemoServerArgs::parse();
    let result = match args.command {
        Some(DemoServerCommand::Healthcheck) => healthcheck(args.address).await,
        None => serve(args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print(&format!("demo-server: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Serves until SIGTERM or SIGINT, then lets open requests finish.
async fn serve(args: DemoServerArgs) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut options = Options::new(args.name, args.address);
    options.zipkin = Some(args.zipkin).filter(|url| !url.is_empty());
    let name = options.name.clone();
    let server = Server::bind(options).await?;
    print(&format!("{name} listens on http://{}", server.local_addr()));
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server.run(shutdown).await;
    Ok(())
}

/// Prints a line on standard error, and ignores that it may be closed.
fn print(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
