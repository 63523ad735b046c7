//! `demo-server`: one demo server as a process of its own, and the health check for its image.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use backends::{Options, Server, healthcheck};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// A small HTTP server to balance over: it answers its name.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// What it calls itself
    #[arg(long, env = "NAME", default_value = "server1")]
    name: String,

    /// Where it listens; port 0 takes a free one
    #[arg(long, env = "ADDRESS", default_value = "127.0.0.1:8081", global = true)]
    address: SocketAddr,

    /// Zipkin's collector, as in http://127.0.0.1:9411/api/v2/spans; empty: no traces
    #[arg(long, env = "ZIPKIN_URL", default_value = "", hide_default_value = true)]
    zipkin: String,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask the server at the address for its health: exits 0 when it is well, else 1
    Healthcheck,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Healthcheck) => healthcheck(cli.address).await,
        None => serve(cli).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("demo-server: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Serves until SIGTERM or SIGINT, then lets open requests finish.
async fn serve(cli: Cli) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut options = Options::new(cli.name, cli.address);
    options.zipkin = Some(cli.zipkin).filter(|url| !url.is_empty());
    let name = options.name.clone();
    let server = Server::bind(options).await?;
    say(&format!("{name} listens on http://{}", server.local_addr()));
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server.run(shutdown).await;
    Ok(())
}

/// One line for people; that nobody reads it is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
