//! The command line: its arguments, and one module for each command.

mod api;
pub mod check;
pub mod demo;
mod explain;
mod fragment;
pub mod healthcheck;
mod output;
mod plan;
pub mod run;
mod server;
mod server_edit;
mod status;
mod table;
mod wait;

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use self::api::{Api, QueryError};
use self::check::{CheckFormat, load_as};
use self::healthcheck::Condition;
use self::output::{OutputOptions, fail, note, print};
use self::server::ServerQuery;
use self::server_edit::EditCommand;
use self::wait::WaitOutcome;
use crate::config::problem::Reason;
use crate::config::schema;
use crate::config::units::parse_duration;
use crate::config::{Address, SocketAddress, file};
use crate::control::reload::reader::env;
use crate::control::reload::source::Source;
use crate::telemetry::logs::in_colour;

/// Exit code for bad input, such as an invalid configuration or a port that is taken.
const BAD_INPUT: u8 = 1;
/// Exit code for wrong usage (clap uses it too), a timeout, or a balancer that does not respond.
const USAGE_OR_TIMEOUT: u8 = 2;

/// An HTTP load balancer and gateway, configured by one TOML file that it reloads while running
#[derive(Debug, Parser)]
#[command(name = "lb", version, arg_required_else_help = false)]
struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: Option<CliCommand>,
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file
    #[arg(long, short, global = true, env = "LB_CONFIG", value_name = "FILE", default_value = "lb.toml")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct PlaceArgs {
    /// Read the configuration as if it were at this path, beside the files that it includes
    #[arg(long = "as", value_name = "PATH")]
    place: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct AdminArgs {
    /// Admin address of the balancer [default: from the configuration]
    #[arg(long, value_name = "HOST:PORT", value_parser = admin_address, global = true)]
    admin: Option<Address>,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Serve the configuration (the default command)
    Run,
    /// Serve lb.toml, written if missing, with three demo servers on ports 8081 to 8083
    Demo {
        /// Serve HTTPS on port 8443 too, with a certificate that is made for it
        #[arg(long)]
        tls: bool,
        /// Only make that certificate in this directory, unless it has one, and serve nothing
        #[arg(long, value_name = "DIRECTORY", conflicts_with = "tls")]
        certificate: Option<PathBuf>,
    },
    /// Validate a configuration and report all errors
    Check {
        /// Configurations to check, each by itself, instead of --config; `-` for standard input
        files: Vec<PathBuf>,
        #[command(flatten)]
        place: PlaceArgs,
        /// Output format
        #[arg(long, value_enum, default_value = "text")]
        format: CheckFormat,
    },
    /// Show what a configuration would change in the running balancer
    Plan {
        /// Configuration to compare instead of --config; `-` for standard input
        file: Option<PathBuf>,
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        admin: AdminArgs,
        /// Output format
        #[arg(long, value_enum, default_value = "text")]
        format: CheckFormat,
    },
    /// Wait until the running balancer serves exactly this configuration; exit with 1 if rejected, 2 on timeout
    Wait {
        /// Configuration to wait for instead of --config; `-` for standard input
        file: Option<PathBuf>,
        /// Admin addresses of the balancers to wait for, separated by commas [default: from the configuration]
        #[arg(long, visible_alias = "admin", value_name = "HOST:PORT", value_delimiter = ',', value_parser = admin_address)]
        targets: Vec<Address>,
        /// Longest time to wait
        #[arg(long, default_value = "30s", value_parser = duration)]
        timeout: Duration,
    },
    /// Show what is running, the last edit, and each server's share of the requests
    Status {
        #[command(flatten)]
        admin: AdminArgs,
        /// Refresh every second
        #[arg(long, conflicts_with = "json")]
        watch: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show which route, pool and servers a request would reach, and why not the others
    Explain {
        /// Path or URL of the request
        #[arg(required_unless_present = "tls")]
        path: Option<String>,
        /// Show instead which certificate a client with this server name gets
        #[arg(long, value_name = "HOST", conflicts_with_all = ["path", "host", "method"])]
        tls: Option<String>,
        /// Host of the request
        #[arg(long)]
        host: Option<String>,
        /// Method of the request
        #[arg(long, default_value = "GET")]
        method: http::Method,
        #[command(flatten)]
        admin: AdminArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the servers of the running balancer, or edit them in the configuration file
    Server {
        #[command(flatten)]
        admin: AdminArgs,
        #[command(subcommand)]
        command: ServerCommand,
    },
    /// Exit with 0 if the balancer of this configuration is ready; for containers without curl
    Healthcheck {
        /// Only require that some pool has an available server, not every pool that a route reaches
        #[arg(long)]
        any: bool,
        /// Only require that the process serves, whatever the state of its servers
        #[arg(long, conflicts_with = "any")]
        alive: bool,
    },
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Print shell completions
    Completions {
        /// Shell to print them for
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum ServerCommand {
    #[command(flatten)]
    Query(ServerQuery),
    #[command(flatten)]
    Edit(EditCommand),
}

/// All commands and their arguments, for the manual page.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { config: ConfigArgs { config }, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // If the stream is closed, nobody is reading.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE_OR_TIMEOUT) } else { ExitCode::SUCCESS };
        }
    };
    let (out, colored) = (&mut io::stdout(), in_colour(&io::stdout()));
    match command.unwrap_or(CliCommand::Run) {
        CliCommand::Run => run::run(&config),
        CliCommand::Demo { certificate: Some(directory), .. } => demo::certificate(&directory),
        CliCommand::Demo { tls, certificate: None } => demo::demo(&config, tls),
        CliCommand::Check { files, place: PlaceArgs { place: Some(_) }, .. } if files.len() > 1 => {
            note(&"`--as` gives one place, so it takes one file");
            ExitCode::from(USAGE_OR_TIMEOUT)
        }
        CliCommand::Check { files, place: PlaceArgs { place }, format } => {
            let files = if files.is_empty() { vec![config] } else { files };
            exit_code(check::check(&files, place.as_deref(), format, colored, out))
        }
        CliCommand::Plan { file, place: PlaceArgs { place }, admin, format } => {
            let file = file.as_deref().unwrap_or(&config);
            let at = place.as_deref().unwrap_or(file);
            admin.query(admin_source(at, &config), |api| {
                let plan = plan::plan(load_as(file, place.as_deref()), api, format, colored, out);
                plan.map(exit_code)
            })
        }
        CliCommand::Wait { file, targets, timeout } => {
            let file = file.as_deref().unwrap_or(&config);
            let targets = if targets.is_empty() { vec![admin_of(admin_source(file, &config))] } else { targets };
            wait((file, &config), targets, timeout)
        }
        CliCommand::Status { admin, watch, json } => admin.query(&config, |api| {
            let options = OutputOptions { json, colored };
            match watch {
                true => Ok(exit_code(status::watch(api, colored, io::stdout().is_terminal(), out).map(|()| true))),
                false => status::status(api, options, out).map(|written| exit_code(written.map(|()| true))),
            }
        }),
        CliCommand::Explain { tls: Some(host), admin, json, .. } => admin.query(&config, |api| {
            explain::tls::explain_tls(&host, api, OutputOptions { json, colored }, out).map(exit_code)
        }),
        CliCommand::Explain { path, tls: None, host, method, admin, json } => admin.query(&config, |api| {
            let path = path.unwrap_or_default();
            let request = explain::RequestSpec { method: &method, host: host.as_deref(), target: &path };
            explain::explain(&request, api, &config, OutputOptions { json, colored }, out).map(exit_code)
        }),
        CliCommand::Server { admin, command: ServerCommand::Query(query) } => admin.query(&config, |api| {
            server::server(&query, api, colored, out).map(|written| exit_code(written.map(|()| true)))
        }),
        CliCommand::Server { admin, command: ServerCommand::Edit(command) } => {
            let done = server_edit::run(&config, &command);
            match command.wait().filter(|_| done) {
                Some(timeout) => {
                    let target = admin.admin.unwrap_or_else(|| admin_of(&config));
                    wait((&config, &config), vec![target], timeout)
                }
                None => exit_code(Ok(done)),
            }
        }
        CliCommand::Healthcheck { any, alive } => {
            let condition = match (any, alive) {
                (_, true) => Condition::Alive,
                (true, false) => Condition::AnyReady,
                (false, false) => Condition::Ready,
            };
            healthcheck::healthcheck(&config, condition)
        }
        CliCommand::Schema => {
            print(schema::text().trim_end());
            ExitCode::SUCCESS
        }
        CliCommand::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut self::command(), "lb", &mut script);
            print(String::from_utf8_lossy(&script).trim_end());
            ExitCode::SUCCESS
        }
    }
}

impl AdminArgs {
    /// Runs a query against the balancer, by default the one of the configuration at `config`.
    fn query(self, config: &Path, query: impl FnOnce(&Api) -> Result<ExitCode, QueryError>) -> ExitCode {
        let is_guess = self.admin.is_none() && !config.exists();
        let api = match Api::new(self.admin.unwrap_or_else(|| admin_of(config))) {
            Ok(api) => api,
            Err(error) => return fail(&error),
        };
        match query(&api) {
            Ok(code) => code,
            Err(error) => {
                note(&error);
                if is_guess {
                    note(&format_args!(
                        "there is no {}, so the default admin address was used; --admin sets another",
                        config.display()
                    ));
                }
                let is_rejected = matches!(error, QueryError::Rejected(..));
                ExitCode::from(if is_rejected { BAD_INPUT } else { USAGE_OR_TIMEOUT })
            }
        }
    }
}

/// The configuration that names the admin address: `file`, unless that is standard input.
fn admin_source<'a>(file: &'a Path, config: &'a Path) -> &'a Path {
    if file == Path::new("-") { config } else { file }
}

/// The admin address in the configuration at `config`, even if that configuration is invalid.
fn admin_of(config: &Path) -> Address {
    match file::admin(&Source::new(config).read(&env).files, &env).address {
        SocketAddress::Ip(address) => Address::Ip(address),
        SocketAddress::Unix(path) => Address::Unix(path),
    }
}

/// Waits for `file`, or for standard input in place of `config`.
fn wait((file, config): (&Path, &Path), targets: Vec<Address>, timeout: Duration) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let err = (&mut io::stderr().lock() as &mut dyn io::Write, in_colour(&io::stderr()));
    let outcome = runtime.block_on(wait::wait((file, config), targets, timeout, &mut io::stdout().lock(), err));
    // A name lookup may still be running.
    runtime.shutdown_background();
    match outcome {
        Ok(WaitOutcome::Applied) => ExitCode::SUCCESS,
        Ok(WaitOutcome::TimedOut) => ExitCode::from(USAGE_OR_TIMEOUT),
        Ok(WaitOutcome::Failed) | Err(_) => ExitCode::from(BAD_INPUT),
    }
}

/// The exit code of a command that has written its output. A closed pipe is a failure too.
fn exit_code(success: io::Result<bool>) -> ExitCode {
    if success.unwrap_or(false) { ExitCode::SUCCESS } else { ExitCode::from(BAD_INPUT) }
}

fn admin_address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|reason: Reason| with_hint(&reason))
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|reason| with_hint(&reason))
}

fn with_hint(Reason { message, hint }: &Reason) -> String {
    hint.as_ref().map_or_else(|| message.clone(), |hint| format!("{message}; {hint}"))
}
