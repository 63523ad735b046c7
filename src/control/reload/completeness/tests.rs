//! Events and reads by table.

use FileEvent::{Closed, Created, Gone, Linked, Moved, Opened, Written};

use super::*;

const QUIET: Duration = Duration::from_millis(50);
/// The seconds between two events of a table.
const BEAT: Duration = Duration::from_secs(60);

/// How far a file has got after some events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Unknown,
    Open,
    Closed,
    Moved,
}

fn progress(state: Option<FileState>) -> Progress {
    match state {
        None => Progress::Unknown,
        Some(FileState::Writing(_)) => Progress::Open,
        Some(FileState::Closed(_)) => Progress::Closed,
        Some(FileState::Moved(_)) => Progress::Moved,
    }
}

#[test]
fn a_file_is_open_from_its_first_write_until_its_writer_closes_it() {
    let now = Instant::now();
    for (name, events, expected) in [
        ("nothing", &[][..], Progress::Unknown),
        ("opened", &[Opened], Progress::Unknown),
        ("written", &[Opened, Written], Progress::Open),
        ("written and closed", &[Opened, Written, Written, Closed], Progress::Closed),
        ("truncated by its open", &[Written, Opened], Progress::Open),
        ("then written", &[Written, Opened, Written, Closed], Progress::Closed),
        ("left empty, or touched while it is written", &[Written, Opened, Closed], Progress::Open),
        ("then written on", &[Written, Opened, Closed, Written], Progress::Open),
        ("then closed", &[Written, Opened, Closed, Written, Closed], Progress::Closed),
        ("closed by both", &[Written, Opened, Closed, Closed], Progress::Closed),
        ("written again", &[Written, Closed, Opened, Written], Progress::Open),
        ("opened by another", &[Written, Opened], Progress::Open),
        ("mapped into memory, so that no write is seen", &[Opened, Closed], Progress::Closed),
        ("linked", &[Linked], Progress::Closed),
        ("linked and opened", &[Linked, Opened], Progress::Closed),
        ("created", &[Created, Opened], Progress::Open),
        ("created and left empty", &[Created, Opened, Closed], Progress::Closed),
        ("created and written", &[Created, Opened, Written, Closed], Progress::Closed),
        ("moved into place", &[Moved], Progress::Moved),
        ("before it was closed", &[Moved, Closed], Progress::Moved),
        ("written after it was moved", &[Moved, Opened, Written], Progress::Open),
        ("moved onto one that is written", &[Written, Moved], Progress::Moved),
        ("deleted half-written", &[Created, Opened, Written, Gone], Progress::Unknown),
        ("and created again", &[Written, Gone, Created, Opened], Progress::Open),
    ] {
        let state = events.iter().fold(None, |state, event| FileState::after(state, *event, now));
        assert_eq!(progress(state), expected, "{name}: {events:?}");
        // A file that is watched together with its directory has each event twice, except while it is new.
        if !events.contains(&Created) {
            let twice = events.iter().flat_map(|event| [event; 2]);
            let twice = twice.fold(None, |state, event| FileState::after(state, *event, now));
            assert_eq!(progress(twice), expected, "{name}, twice: {events:?}");
        }
    }
}

/// An edit of these files, noticed and first read at the same time.
fn edit(changed: &[(&str, FileText)], alone: bool, at: Instant) -> UnreadEdit {
    let entry = |name: &str| PathBuf::from(format!("/d/{name}"));
    let file = |(name, text): &(&str, FileText)| ChangedFile { entries: BTreeSet::from([entry(name)]), text: *text };
    UnreadEdit {
        entries: ["lb.toml", "a", "b"].map(entry).into(),
        changed: changed.iter().map(file).collect(),
        alone,
        noticed: at,
        unchanged_since: at,
    }
}

#[test]
fn an_edit_is_read_when_all_of_its_files_are_complete() {
    use FileText::{Empty, NoMain, None, Some};
    let (main, a, b) = (("lb.toml", Some), ("a", Some), ("b", Some));
    let (at_once, quiet, open) = (Duration::ZERO, QUIET, OPEN);
    for (name, events, changed, alone, expected) in [
        ("a rename", &[("lb.toml", Moved)][..], &[main][..], true, (at_once, Because::Quiet)),
        ("a rename of one of several files", &[("a", Moved)], &[a], false, (quiet, Because::Quiet)),
        ("of an empty file", &[("lb.toml", Moved)], &[("lb.toml", Empty)], true, (at_once, Because::Quiet)),
        ("no event at all", &[], &[main], true, (quiet, Because::Quiet)),
        ("written and closed", &[("lb.toml", Written), ("lb.toml", Closed)], &[main], true, (quiet, Because::Quiet)),
        ("written", &[("lb.toml", Written)], &[main], true, (open, Because::Open)),
        ("emptied", &[("lb.toml", Written), ("lb.toml", Closed)], &[("lb.toml", Empty)], true, (EMPTY, Because::Empty)),
        ("emptied without an event", &[], &[("lb.toml", Empty)], true, (EMPTY, Because::Empty)),
        ("an included file is missing", &[], &[("a", None)], false, (quiet, Because::Quiet)),
        ("the main file is missing", &[], &[("lb.toml", NoMain)], true, (MISSING, Because::Quiet)),
        ("missing after a rename", &[("lb.toml", Moved)], &[("lb.toml", NoMain)], true, (MISSING, Because::Quiet)),
        (
            "one is renamed, one written",
            &[("lb.toml", Written), ("a", Moved)],
            &[main, a],
            false,
            (open, Because::Open),
        ),
        ("in the other order", &[("a", Moved), ("lb.toml", Written)], &[main, a], false, (open, Because::Open)),
        ("one that reads the same is written", &[("a", Moved), ("b", Written)], &[a], false, (open, Because::Open)),
        ("two are written", &[("a", Written), ("b", Written), ("a", Closed)], &[a, b], false, (open, Because::Open)),
        ("one is renamed, one has no event", &[("a", Moved)], &[a, b], false, (quiet, Because::Quiet)),
        (
            "another file is written, such as a log",
            &[("log", Written), ("lb.toml", Moved)],
            &[main],
            true,
            (at_once, Because::Quiet),
        ),
    ] {
        let (mut completeness, now) = (Completeness::default(), Instant::now());
        for (file, event) in events {
            completeness.apply(&Path::new("/d").join(file), *event, now);
        }
        let (ready, because) = completeness.ready(&edit(changed, alone, now), QUIET);
        assert_eq!((ready.duration_since(now), because), expected, "{name}");
    }
}

#[test]
fn renames_that_do_not_end_are_read_in_between_but_not_writes() {
    let start = Instant::now();
    for (event, at_most) in [(Moved, QUIET * PATIENCE), (Closed, BEAT + QUIET)] {
        let mut completeness = Completeness::default();
        let mut edit = edit(&[("a", FileText::Some)], false, start);
        completeness.apply(Path::new("/d/a"), event, start + BEAT);
        edit.unchanged_since = start + BEAT;
        assert_eq!(completeness.ready(&edit, QUIET).0, start + at_most, "{event:?}");
    }
}

#[test]
fn what_was_read_is_forgotten_and_what_is_still_written_is_not() {
    let (start, mut completeness) = (Instant::now(), Completeness::default());
    let path = |name: &str| Path::new("/d").join(name);
    let known = |completeness: &Completeness| {
        let mut names: Vec<_> = completeness.files.keys().cloned().collect();
        names.sort();
        names
    };
    for (name, event, at) in [("a", Moved, 0), ("b", Written, 0), ("c", Closed, 2), ("e", Written, 0)] {
        completeness.apply(&path(name), event, start + at * BEAT);
    }
    completeness.apply(Path::new("/elsewhere/f"), Written, start);
    completeness.forget(start + BEAT, &[PathBuf::from("/d")].into());
    assert_eq!(known(&completeness), [path("b"), path("c"), path("e")], "written, and complete after the read");
    completeness.doubt();
    assert_eq!(known(&completeness), [path("b"), path("e")], "events may have been lost");
}

#[test]
fn an_open_is_no_news_because_the_reader_opens_files_too() {
    let (now, mut completeness, path) = (Instant::now(), Completeness::default(), Path::new("/d/a"));
    for (event, expected) in [(Opened, false), (Written, true), (Opened, false), (Closed, true), (Gone, true)] {
        assert_eq!(completeness.apply(path, event, now), expected, "{event:?}");
    }
}
