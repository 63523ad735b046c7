//! Each edit on each layout, and random edits of random files.

#![allow(clippy::unwrap_used)]

mod random;

use super::*;
use crate::config::file::parse;

fn no_env(_: &str) -> Option<String> {
    None
}

/// An edit as typed after `lb server`.
fn command(line: &str) -> Edit {
    let mut words: Vec<&str> = line.split(' ').collect();
    let pool = words.iter().position(|word| *word == "--pool").map(|at| words.drain(at..at + 2).nth(1).unwrap().into());
    let option = |name: &str| words.iter().position(|word| *word == name).map(|at| words[at + 1].parse().unwrap());
    let action = match words[0] {
        "add" => EditAction::Add(NewServer {
            address: words[2].to_owned(),
            weight: option("--weight"),
            enabled: !words.contains(&"--disabled"),
        }),
        "remove" => EditAction::Remove,
        "weight" => EditAction::SetWeight(words[2].parse().unwrap()),
        word => EditAction::SetEnabled(word == "enable"),
    };
    Edit { server: words[1].to_owned(), pool, action }
}

fn outcome(text: &str, line: &str) -> EditOutcome {
    edit(&[SourceFile::new("lb.toml", text)], &no_env, &command(line)).expect(line)
}

#[track_caller]
fn edited(text: &str, line: &str) -> String {
    match outcome(text, line) {
        EditOutcome::Changed { bytes, .. } => String::from_utf8(bytes).unwrap(),
        EditOutcome::Unchanged(message) => panic!("{line}: {message}"),
    }
}

fn error(text: &str, line: &str) -> String {
    match edit(&[SourceFile::new("lb.toml", text)], &no_env, &command(line)).expect_err(line) {
        EditError::Invalid(reason) => format!("{} ({})", reason.message, reason.hint.unwrap_or_default()),
        EditError::Problems(problems) => problems[0].to_string(),
    }
}

const A: &str = "[[server]]\nname = \"a\"\naddress = \"a:1\"\n";
const B: &str = "[[server]]\nname = \"b\"\naddress = \"b:1\"\n";
const TWO: &str = "server = [{ name = \"a\", address = \"a:1\" }, { name = \"b\", address = \"b:1\" }]\n";

#[test]
fn a_new_server_follows_the_last_one_of_its_pool_in_its_style() {
    let c = "[[server]]\nname = \"c\"\naddress = \"c:1\"\n";
    for (before, line, after) in [
        // With or without blank lines, as in the file.
        (format!("{A}\n{B}"), "add c c:1", format!("{A}\n{B}\n{c}")),
        (format!("x = 1\n{A}{B}"), "add c c:1", format!("x = 1\n{A}{B}{c}")),
        (format!("{A}\n\n# end\n"), "add c c:1", format!("{A}\n{c}\n\n# end\n")),
        (format!("x = 1\n\n{A}[log]\n"), "add c c:1", format!("x = 1\n\n{A}{c}[log]\n")),
        // Comments stay with the lines that they touch.
        (format!("{A}# weight = 2\n"), "add c c:1", format!("{A}# weight = 2\n\n{c}")),
        (format!("x = 1\n{A}# of b\n{B}"), "add c c:1", format!("x = 1\n{A}# of b\n{B}{c}")),
        (format!("{A}# of the log\n[log]\n"), "add c c:1", format!("{A}{c}# of the log\n[log]\n")),
        // Line ends, and a missing final newline.
        (A.replace('\n', "\r\n"), "add c c:1", format!("{A}\n{c}").replace('\n', "\r\n")),
        (A.trim_end().to_owned(), "add c c:1", format!("{A}\n{c}").trim_end().to_owned()),
        // All keys; margins and spacing as in the file.
        (
            "  [[ server ]] # first\n    name    = \"a\"\n    address = \"a:1\"\n".to_owned(),
            "add c [::1]:1 --weight 0 --disabled",
            "  [[ server ]] # first\n    name    = \"a\"\n    address = \"a:1\"\n\n  [[ server ]]\n    name    = \"c\"\n    \
             address = \"[::1]:1\"\n    weight = 0\n    enabled = false\n"
                .to_owned(),
        ),
        // Pools.
        (
            "[[pool.x.server]]\nname = \"a\"\n\n[log]\n".to_owned(),
            "add c c:1 --pool x",
            format!("[[pool.x.server]]\nname = \"a\"\n\n{}\n[log]\n", c.replace("[server]", "[pool.x.server]")),
        ),
        (A.to_owned(), "add c c:1 --pool new", format!("{A}\n{}", c.replace("[server]", "[pool.new.server]"))),
        (
            "\n".to_owned(),
            "add c c:1 --pool n.1",
            format!("{}\n", c.replace("[server]", "[pool.\"n.1\".server]")),
        ),
        ("x = 1\n# end\n\n".to_owned(), "add c c:1", format!("x = 1\n# end\n\n{c}\n")),
        // Arrays.
        (TWO.to_owned(), "add c c:1", TWO.replace("}]", "}, { name = \"c\", address = \"c:1\" }]")),
        ("server = []\n".to_owned(), "add c c:1", "server = [{ name = \"c\", address = \"c:1\" }]\n".to_owned()),
        (
            "server = [\n  {name=\"a\"} # first\n]\n".to_owned(),
            "add c c:1",
            "server = [\n  {name=\"a\"}, # first\n  {name=\"c\", address = \"c:1\"}\n]\n".to_owned(),
        ),
        (
            "server = [\n\t{ name = \"a\" }, # first\n]\n".to_owned(),
            "add c c:1",
            "server = [\n\t{ name = \"a\" }, # first\n\t{ name = \"c\", address = \"c:1\" },\n]\n".to_owned(),
        ),
        (
            "server = [\n  { name = \"a\" } ]\n".to_owned(),
            "add c c:1",
            "server = [\n  { name = \"a\" },\n  { name = \"c\", address = \"c:1\" } ]\n".to_owned(),
        ),
    ] {
        let result = edited(&before, line);
        assert_eq!(result, after, "{line}");
        let undo = line.split_whitespace().skip_while(|word| *word != "--pool");
        let undo = ["remove", "c"].into_iter().chain(undo).collect::<Vec<_>>().join(" ");
        assert_eq!(edited(&result, &undo), before, "{undo}");
    }
}

#[test]
fn a_server_is_removed_with_the_comments_that_touch_it() {
    for (before, after) in [
        (format!("x = 1\n\n{A}\n{B}"), format!("x = 1\n\n{B}")),
        (format!("{A}\n{B}"), B.to_owned()),
        (format!("# all\n\n# of a\n# more\n{A}# weight = 2\n\n{B}"), format!("# all\n\n{B}")),
        // A comment that touches the next server belongs to that one.
        (format!("x = 1\n\n{A}# of b\n{B}"), format!("x = 1\n\n# of b\n{B}")),
        // A server that is commented out stays.
        (format!("# [[server]]\n# name = \"z\"\n{A}\n{B}"), format!("# [[server]]\n# name = \"z\"\n\n{B}")),
        (format!("{B}\n{A}# [[server]]\n# name = \"z\"\n"), format!("{B}\n# [[server]]\n# name = \"z\"\n")),
        // A line of a string only looks like a comment.
        (format!("x = \"\"\"\n# y\"\"\"\n{A}{B}"), format!("x = \"\"\"\n# y\"\"\"\n{B}")),
        (TWO.to_owned(), "server = [{ name = \"b\", address = \"b:1\" }]\n".to_owned()),
        (
            "server = [\n  # one\n  { name = \"a\" }, # x\n\n  # two\n  { name = \"b\" }\n]\n".to_owned(),
            "server = [\n\n  # two\n  { name = \"b\" }\n]\n".to_owned(),
        ),
        (
            "server = [\n  { name = \"b\" }, # x\n  # one\n  { name = \"a\" } # y\n]\n".to_owned(),
            "server = [\n  { name = \"b\" } # x\n]\n".to_owned(),
        ),
        (
            "server = [\n{ name = \"b\" } # x\n, { name = \"a\" }\n]\n".to_owned(),
            "server = [\n{ name = \"b\" } # x\n\n]\n".to_owned(),
        ),
        ("server = [ { name = \"a\" }, ]\n".to_owned(), "server = [  ]\n".to_owned()),
    ] {
        assert_eq!(edited(&before, "remove a"), after, "{before}");
    }
}

#[test]
fn a_key_is_set_in_place_or_added_after_the_others() {
    for (before, line, after) in [
        ("name = \"a\"\nweight = 2   # two\n", "weight a 10", "name = \"a\"\nweight = 10   # two\n"),
        ("name = \"a\"\nweight = 0x2\n", "weight a 3", "name = \"a\"\nweight = 3\n"),
        ("name = \"a\" # a\n# weight = 2\n", "weight a 2", "name = \"a\" # a\nweight = 2\n# weight = 2\n"),
        ("name='a'", "weight a 2", "name='a'\nweight = 2"),
        ("\tname=\"a\"\r\n\taddress=\"a:1\"", "disable a", "\tname=\"a\"\r\n\taddress=\"a:1\"\r\n\tenabled=false"),
        ("name = \"a\"\nenabled = false\n", "enable a", "name = \"a\"\nenabled = true\n"),
        ("enabled = true\nname = \"a\"\n", "disable a", "enabled = false\nname = \"a\"\n"),
        ("name = \"a\"\nenabled = 1\n", "enable a", "name = \"a\"\nenabled = true\n"),
    ] {
        let header = if before.contains('\r') { "[[server]]\r\n" } else { "[[server]]\n" };
        assert_eq!(edited(&format!("{header}{before}"), line), format!("{header}{after}"), "{line}");
    }
    for (before, line, after) in [
        ("{ name = \"a\" }", "disable a", "{ name = \"a\", enabled = false }"),
        ("{name=\"a\",weight=2}", "weight a 3", "{name=\"a\",weight=3}"),
    ] {
        assert_eq!(edited(&format!("server = [{before}]"), line), format!("server = [{after}]"), "{line}");
    }
}

/// `toml_edit` 0.25 changes each of these files even if nothing is edited: it reprints the document, groups dotted keys
/// by their table, and has one spelling for all headers of an array.
#[test]
fn layouts_that_toml_edit_rewrites_are_kept() {
    for before in [
        // Printed as connect, idle, headers.
        "timeouts.connect = \"1s\"  # the network is near\nlimits.headers = 50\ntimeouts.idle = \"30s\"\n[[server]]\nname = \"a\"\nweight = 2\n",
        // `\"timeouts\" . idle` is printed as `timeouts. idle`.
        "timeouts.connect = \"1s\"\n\"timeouts\" . idle = \"30s\"\n[[server]]\nname = \"a\"\nweight = 2\n",
        // Both headers are printed like the first.
        "[[server]]\nname = \"b\"\n\n[[ server ]]\nname = \"a\"\nweight = 2\n",
        "[[pool.api.server]]\nname = \"b\"\n\n[[pool.\"api\".server]]\nname = \"a\"\nweight = 2\n",
        // Every CR is dropped. With mixed line ends, nothing tells afterwards which lines had one.
        "[log]\r\nlevel = \"info\"\n[[server]]\r\nname = \"a\"\nweight = 2\r\n",
        // A final newline is added.
        "[[server]]\nname = \"a\"\nweight = 2",
    ] {
        assert_eq!(edited(before, "weight a 3"), before.replace("weight = 2", "weight = 3"));
    }
}

#[test]
fn an_edit_without_effect_says_so() {
    for (line, message) in [
        ("enable a", "server default/a: already enabled"),
        ("weight a 1", "server default/a: weight is already 1"),
        ("add a a:1", "server default/a: already exists"),
        ("add a A:1 --weight 1", "server default/a: already exists"),
    ] {
        assert_eq!(outcome(A, line), EditOutcome::Unchanged(message.to_owned()), "{line}");
    }
}

#[test]
fn an_edit_that_does_not_fit_is_an_error() {
    let pools = format!("{A}{B}[[pool.blue.server]]\nname = \"a\"\naddress = \"a:1\"\n");
    for (text, line, expected) in [
        (A, "add a b:1", "pool `default` already has a server `a`, on line 1 of lb.toml"),
        (A, "add a a:1 --disabled", "lb server weight|enable|disable a"),
        (A, "add c c", "it has no port"),
        (A, "add c c:1 --pool x/y", "`x/y` is not a name"),
        (A, "add c! c:1", "`c!` is not a name"),
        (&pools, "add c c:1 --pool bleu", "there is no pool `bleu` (did you mean `blue`?"),
        (A, "remove aa", "there is no server `aa` (did you mean `a`?)"),
        ("", "remove a", "there is no server `a` (`lb server list`"),
        (&pools, "remove b --pool blue", "there is no server `b` in pool `blue`"),
        (&pools, "weight a 2", "pools `default`, `blue` each have a server `a` (name the pool: `--pool default`)"),
        (
            "[[server]]\nname = \"a\"\n[[server]]\nname = \"a\"\n",
            "enable a",
            "two servers `a`, on line 1 of lb.toml and on line 3",
        ),
        ("[[server]\n", "enable a", "lb.toml:1:"),
    ] {
        let error = error(text, line);
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn a_server_is_found_by_a_name_from_the_environment_and_in_an_included_file() {
    let env = |name: &str| (name == "WHO").then(|| "a".to_owned());
    let main = SourceFile::new("lb.toml", format!("include = [\"x\"]\n{B}"));
    let other = SourceFile::new("x", A.replace("\"a\"", "\"${WHO}\""));
    let outcome = edit(&[main, other], &env, &command("weight a 2")).unwrap();
    let bytes = A.replace("\"a\"", "\"${WHO}\"") + "weight = 2\n";
    assert_eq!(outcome, EditOutcome::Changed { file: 1, bytes: bytes.into_bytes() });
}

#[test]
fn the_configuration_differs_by_the_edit_only() {
    let listener = "[[listener]]\naddress = \"127.0.0.1:1\"\n";
    let config = |text: &str| parse(&[SourceFile::new("lb.toml", text)], &no_env).expect(text);
    let text = format!("{listener}{A}{B}");
    for (line, expected) in [
        ("add c c:1 --weight 4", "server default/c: added (c:1, weight 4)"),
        ("add c c:1 --disabled", "server default/c: added (c:1, weight 1, disabled)"),
        ("remove a", "server default/a: removed"),
        ("disable b", "server default/b: disabled"),
        ("weight b 7", "server default/b: weight 1 -> 7"),
    ] {
        let changes = crate::config::diff::diff(&config(&text), &config(&edited(&text, line)));
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(changes, [expected]);
    }
}
