//! The commands, one file each.

pub mod check;
pub mod demo;
pub mod healthcheck;
pub mod run;
mod server_edit;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use self::check::CheckFormat;
use self::server_edit::EditCommand;
use crate::config::schema;
use crate::telemetry::logs::in_colour;

/// Exit code for a bad input: a configuration that is not valid, a port that is taken.
const BAD_INPUT: u8 = 1;
/// Exit code for a wrong usage, which is clap's own too.
const USAGE: u8 = 2;

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

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (the default)
    Run,
    /// Serve from lb.toml, written if missing, with three demo servers on ports 8081 to 8083
    Demo,
    /// Check a configuration: exit code 0, or 1 with everything that is wrong
    Check {
        /// The configuration, in place of --config.
        file: Option<PathBuf>,
        /// Who reads the answer.
        #[arg(long, value_enum, default_value = "text")]
        format: CheckFormat,
    },
    /// Exit with 0 if the balancer of this file answers /ready: for containers without curl
    Healthcheck,
    /// Edit a server in the file: comments and layout stay, and it is checked before it is written
    #[command(subcommand)]
    Server(EditCommand),
    /// Print the JSON Schema of lb.toml, for editors
    Schema,
    /// Print what makes a shell complete the commands
    Completions {
        /// The shell.
        shell: Shell,
    },
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
    match command.unwrap_or(Command::Run) {
        Command::Run => run::run(&config),
        Command::Demo => demo::demo(&config),
        Command::Check { file, format } => {
            match check::check(&file.unwrap_or(config), format, in_colour(&io::stdout()), &mut io::stdout().lock()) {
                Ok(true) => ExitCode::SUCCESS,
                // A pipe that was closed is no fine file either.
                Ok(false) | Err(_) => ExitCode::from(BAD_INPUT),
            }
        }
        Command::Healthcheck => healthcheck::healthcheck(&config),
        Command::Server(command) => server_edit::run(&config, &command),
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
