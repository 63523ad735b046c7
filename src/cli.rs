//! The commands, one file each.

mod api;
pub mod check;
pub mod demo;
mod explain;
pub mod healthcheck;
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
use self::check::CheckFormat;
use self::server::ServerCommand;
use self::server_edit::EditCommand;
use self::wait::Ended;
use crate::config::problem::Reason;
use crate::config::schema;
use crate::config::units::parse_duration;
use crate::config::{Address, file};
use crate::control::reload::reader::env;
use crate::control::reload::source::Source;
use crate::telemetry::logs::in_colour;

/// Exit code for a bad input: a configuration that is not valid, a port that is taken.
const BAD_INPUT: u8 = 1;
/// Exit code for a wrong usage, which is clap's own too.
const USAGE: u8 = 2;

/// How long an edit is waited for.
const IN_FORCE: Duration = Duration::from_secs(30);

/// A load balancer and gateway whose whole truth is one watched TOML file.
#[derive(Debug, Parser)]
#[command(name = "lb", version, arg_required_else_help = false)]
struct Cli {
    #[command(flatten)]
    file: File,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct File {
    /// The configuration.
    #[arg(long, short, global = true, env = "LB_CONFIG", value_name = "FILE", default_value = "lb.toml")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Balancer {
    /// The admin address of the balancer; left out: that of the configuration.
    #[arg(long, value_name = "HOST:PORT", value_parser = admin_address, global = true)]
    admin: Option<Address>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (the default)
    Run,
    /// Serve from lb.toml, written if missing, with three demo servers on ports 8081 to 8083
    Demo,
    /// Check a configuration: exit code 0, or 1 with everything that is wrong
    Check {
        /// The configuration, in place of --config; `-` is standard input.
        file: Option<PathBuf>,
        /// Who reads the answer.
        #[arg(long, value_enum, default_value = "text")]
        format: CheckFormat,
    },
    /// Say what applying a configuration would change in the running balancer
    Plan {
        /// The configuration, in place of --config; `-` is standard input.
        file: Option<PathBuf>,
        #[command(flatten)]
        balancer: Balancer,
        /// Who reads the answer.
        #[arg(long, value_enum, default_value = "text")]
        format: CheckFormat,
    },
    /// Wait until the running balancer serves exactly a configuration: 0 it does, 1 rejected, 2 too late
    Wait {
        /// The configuration, in place of --config; `-` is standard input.
        file: Option<PathBuf>,
        /// The admin addresses of several balancers, each waited for; left out: that of the configuration.
        #[arg(long, visible_alias = "admin", value_name = "HOST:PORT", value_delimiter = ',', value_parser = admin_address)]
        targets: Vec<Address>,
        /// How long.
        #[arg(long, default_value = "30s", value_parser = duration)]
        timeout: Duration,
    },
    /// Show what runs, what became of the last edit, and who gets which requests
    Status {
        #[command(flatten)]
        balancer: Balancer,
        /// Again every second, in place.
        #[arg(long, conflicts_with = "json")]
        watch: bool,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Say which route, pool and servers a request would get, and why not the others
    Explain {
        /// The path that is asked for, or a whole URL.
        path: String,
        /// The host that is asked.
        #[arg(long)]
        host: Option<String>,
        /// The method.
        #[arg(long, default_value = "GET")]
        method: http::Method,
        #[command(flatten)]
        balancer: Balancer,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Ask the running balancer about its servers, or edit them in the file
    Server {
        #[command(flatten)]
        balancer: Balancer,
        #[command(subcommand)]
        command: AboutServer,
    },
    /// Exit with 0 if the balancer of this file answers /ready: for containers without curl
    Healthcheck,
    /// Print the JSON Schema of lb.toml, for editors
    Schema,
    /// Print what makes a shell complete the commands
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// What is asked or edited.
#[derive(Debug, Subcommand)]
enum AboutServer {
    #[command(flatten)]
    Ask(ServerCommand),
    #[command(flatten)]
    Edit(EditCommand),
}

/// All commands with their arguments.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command that the process was called with.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { file: File { config }, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody reads it if this fails.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let (out, colored) = (&mut io::stdout(), in_colour(&io::stdout()));
    match command.unwrap_or(Command::Run) {
        Command::Run => run::run(&config),
        Command::Demo => demo::demo(&config),
        Command::Check { file, format } => verdict(check::check(&file.unwrap_or(config), format, colored, out)),
        Command::Plan { file, balancer, format } => {
            let file = file.as_deref().unwrap_or(&config);
            // What comes on standard input does not say where the balancer is; that of --config does.
            let told = if file == Path::new("-") { &config } else { file };
            balancer.ask(told, |api| plan::plan(file, api, format, colored, out).map(verdict))
        }
        Command::Wait { file, targets, timeout } => {
            let file = file.as_deref().unwrap_or(&config);
            let told = if file == Path::new("-") { &config } else { file };
            let targets = if targets.is_empty() { vec![admin(told)] } else { targets };
            wait(file, targets, timeout)
        }
        Command::Status { balancer, watch, json } => balancer.ask(&config, |api| {
            let manner = status::Manner { json, colored, in_place: watch && io::stdout().is_terminal() };
            match watch {
                true => Ok(verdict(status::watch(api, manner, out).map(|()| true))),
                false => status::status(api, manner, out).map(|written| verdict(written.map(|()| true))),
            }
        }),
        Command::Explain { path, host, method, balancer, json } => balancer.ask(&config, |api| {
            let request = explain::Request { method: &method, host: host.as_deref(), target: &path };
            explain::explain(&request, api, &config, explain::Manner { json, colored }, out).map(verdict)
        }),
        Command::Server { balancer, command: AboutServer::Ask(command) } => balancer.ask(&config, |api| {
            server::server(&command, api, colored, out).map(|written| verdict(written.map(|()| true)))
        }),
        Command::Healthcheck => healthcheck::healthcheck(&config),
        Command::Server { balancer, command: AboutServer::Edit(command) } => {
            let done = server_edit::run(&config, &command);
            if done && command.waits() {
                let target = balancer.admin.unwrap_or_else(|| admin(&config));
                return wait(&config, vec![target], IN_FORCE);
            }
            verdict(Ok(done))
        }
        Command::Schema => {
            say(schema::text().trim_end());
            ExitCode::SUCCESS
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut self::command(), "lb", &mut script);
            say(String::from_utf8_lossy(&script).trim_end());
            ExitCode::SUCCESS
        }
    }
}

impl Balancer {
    /// Has the balancer asked, by default that of the configuration at `config`.
    fn ask(self, config: &Path, ask: impl FnOnce(&Api) -> Result<ExitCode, QueryError>) -> ExitCode {
        let by_default = self.admin.is_none() && !config.exists();
        let api = match Api::new(self.admin.unwrap_or_else(|| admin(config))) {
            Ok(api) => api,
            Err(error) => return fail(&error),
        };
        match ask(&api) {
            Ok(code) => code,
            Err(error) => {
                fail(&error);
                if by_default {
                    note(&format_args!(
                        "there is no {}, so the default address was asked (--admin names another)",
                        config.display()
                    ));
                }
                // What is refused was understood: it is the question that was wrong.
                let refused = matches!(error, QueryError::Refused(..));
                ExitCode::from(if refused { BAD_INPUT } else { USAGE })
            }
        }
    }
}

/// The admin address that the configuration tells, whatever else is wrong with it.
fn admin(config: &Path) -> Address {
    Address::Ip(file::admin(&Source::new(config).read(&env).files, &env).address)
}

fn wait(file: &Path, targets: Vec<Address>, timeout: Duration) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let err = (&mut io::stderr().lock() as &mut dyn io::Write, in_colour(&io::stderr()));
    let ended = runtime.block_on(wait::wait(file, targets, timeout, &mut io::stdout().lock(), err));
    // A look-up of a name may still be under way.
    runtime.shutdown_background();
    match ended {
        Ok(Ended::Applied) => ExitCode::SUCCESS,
        Ok(Ended::Late) => ExitCode::from(USAGE),
        Ok(Ended::Rejected) | Err(_) => ExitCode::from(BAD_INPUT),
    }
}

/// Ends a command whose answer was written. A pipe that was closed is no fine answer either.
fn verdict(fine: io::Result<bool>) -> ExitCode {
    if fine.unwrap_or(false) { ExitCode::SUCCESS } else { ExitCode::from(BAD_INPUT) }
}

fn admin_address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|fault: Reason| said(&fault))
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|fault| said(&fault))
}

fn said(Reason { message, hint }: &Reason) -> String {
    hint.as_ref().map_or_else(|| message.clone(), |hint| format!("{message}; {hint}"))
}

/// Says on standard error why the command failed.
fn fail(words: &impl std::fmt::Display) -> ExitCode {
    note(words);
    ExitCode::from(BAD_INPUT)
}

/// Says on standard error what is good to know.
fn note(words: &impl std::fmt::Display) {
    use io::Write;
    // Nobody reads it if this fails.
    let _ = writeln!(io::stderr(), "lb: {words}");
}

/// Says something on standard output.
fn say(words: &str) {
    use io::Write;
    // Nobody reads it if this fails.
    let _ = writeln!(io::stdout(), "{words}");
}
