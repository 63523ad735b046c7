//! Generated files in the repository are up to date.
//!
//! After an intended change, `LB_BLESS=1 cargo test --test generated` writes them again. Read the diff.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// Compares a file of the repository with its expected content, or writes that.
fn assert_file(path: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("LB_BLESS").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{} is out of date: see the first lines of this test", path.display());
}

#[test]
fn the_schema_is_up_to_date() {
    assert_file(lb::config::schema::FILE, &lb::config::schema::text());
    let output = Command::new(env!("CARGO_BIN_EXE_lb")).arg("schema").output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), lb::config::schema::text());
}

#[test]
fn the_manual_page_is_up_to_date() {
    assert_file("docs/lb.1", &manual());
}

/// The page of all commands.
fn manual() -> String {
    let mut command = lb::cli::command();
    command.build();
    let mut page = Vec::new();
    // Without the version, so that a release does not change the page.
    let man = Man::new(command.clone().version(None)).source("lb").manual("User Commands").date("");
    man.render_title(&mut page).unwrap();
    man.render_name_section(&mut page).unwrap();
    man.render_synopsis_section(&mut page).unwrap();
    man.render_description_section(&mut page).unwrap();
    man.render_options_section(&mut page).unwrap();
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    roff.to_writer(&mut page).unwrap();
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help" && !inner.is_hide_set()) {
        subcommand(&mut page, "lb", inner);
    }
    for (heading, rows) in [
        (
            "EXIT STATUS",
            &[
                ("0", "Success."),
                ("1", "Bad input, such as an invalid configuration or a port that is taken."),
                ("2", "Wrong usage, a timeout, or no response from the balancer."),
            ][..],
        ),
        (
            "SIGNALS",
            &[
                (
                    "SIGTERM, SIGINT",
                    "Finish open requests for at most timeouts.drain, then stop. A second signal stops at once.",
                ),
                ("SIGHUP", "Reread the configuration."),
                ("SIGUSR1", "Open the file of the access log again, after it was moved away."),
            ],
        ),
        ("ENVIRONMENT", &[("LB_CONFIG", "The configuration file, if --config is not given.")]),
        ("FILES", &[("lb.toml", "The configuration. Everything but proxy.workers is reloaded while lb is running.")]),
    ] {
        let mut roff = Roff::new();
        roff.control("SH", [heading]);
        for (term, text) in rows {
            roff.control("TP", []);
            roff.text([bold(*term)]);
            roff.text([roman(*text)]);
        }
        roff.to_writer(&mut page).unwrap();
    }
    // Removes the preamble that each part repeats.
    let page = String::from_utf8(page).unwrap();
    let (first, rest) = page.split_at(page.find(".TH").unwrap());
    let rest: Vec<&str> = rest.lines().filter(|line| first.lines().all(|preamble| preamble != *line)).collect();
    format!("{first}{}\n", rest.join("\n"))
}

/// Writes a command's arguments, and then its subcommands.
fn subcommand(page: &mut Vec<u8>, before: &str, command: &clap::Command) {
    let name = format!("{before} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut roff = Roff::new();
    let usage = command.clone().bin_name(&name).render_usage().to_string();
    roff.control("SS", [usage.trim_start_matches("Usage: ")]);
    roff.text([roman(about)]);
    for argument in
        command.get_arguments().filter(|a| !a.is_global_set() && !["help", "version"].contains(&a.get_id().as_str()))
    {
        roff.control("TP", []);
        roff.text([bold(argument.to_string())]);
        roff.text([roman(argument.get_help().map(ToString::to_string).unwrap_or_default())]);
    }
    roff.to_writer(page).unwrap();
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help" && !inner.is_hide_set()) {
        subcommand(page, &name, inner);
    }
}
