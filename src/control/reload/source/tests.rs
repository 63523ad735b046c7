//! Real files in real directories.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use tempfile::TempDir;

use super::*;

const MAIN: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[server]]\nname = \"a\"\naddress = \"a:1\"\n";

struct Place(TempDir);

impl Place {
    fn new(files: &[(&str, &str)]) -> Self {
        let place = Self(tempfile::tempdir().expect("a directory"));
        for (name, text) in files {
            let path = place.path(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
            fs::write(path, text).expect("write");
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self) -> Loaded {
        load(&self.path("lb.toml"), &|_| None)
    }

    fn messages(&self) -> Vec<String> {
        let problems = self.load().result.expect_err("problems");
        problems.iter().map(Problem::to_string).collect()
    }
}

fn names(sources: &Sources) -> Vec<String> {
    let name = |file: &SourceFile| file.path.file_name().expect("a name").to_string_lossy().into_owned();
    sources.files.iter().map(name).collect()
}

#[test]
fn one_file_is_named_by_its_own_hash() {
    let place = Place::new(&[("lb.toml", MAIN)]);
    let loaded = place.load();
    assert!(loaded.result.is_ok());
    assert_eq!(loaded.sources.hash, source::sha256(MAIN.as_bytes()));
    assert_eq!(source::sha256(b"").len(), 64);
    assert!(!loaded.sources.unlinked);
    assert_eq!(loaded.sources, place.load().sources);
}

#[test]
fn included_files_come_by_path_and_each_once() {
    let include = "include = [\"conf.d/*.toml\", \"*.toml\", \"conf.d/b.toml\"]\n";
    let files = [
        ("lb.toml", format!("{include}{MAIN}")),
        ("a.toml", String::new()),
        ("conf.d/b.toml", String::new()),
        ("conf.d/a1.toml", String::new()),
        ("conf.d/.hidden.toml", "?".to_owned()),
        ("conf.d/note.txt", "?".to_owned()),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let (here, there) = (Place::new(&files), Place::new(&files));
    symlink("nowhere", here.path("conf.d/.#b.toml")).expect("an editor's lock");
    fs::create_dir(here.path("conf.d/x.toml")).expect("a directory");
    let loaded = here.load();
    assert!(loaded.result.is_ok(), "{:?}", loaded.result);
    assert_eq!(names(&loaded.sources), ["lb.toml", "a.toml", "a1.toml", "b.toml"]);
    assert_eq!(loaded.sources.hash, there.load().sources.hash, "machines agree");
    fs::write(there.path("conf.d/b.toml"), "#").expect("write");
    assert_ne!(loaded.sources.hash, there.load().sources.hash);
}

#[test]
fn what_cannot_be_read_is_a_problem_where_it_is_named() {
    let place = Place::new(&[]);
    fs::write(place.path("lb.toml"), format!("include = [\"gone.toml\", \"d\", \"e/*.toml\"]\n{MAIN}")).expect("write");
    fs::create_dir(place.path("d")).expect("directory");
    let messages = place.messages();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages[0].contains("lb.toml:1:12: `gone.toml`: there is no such file"), "{messages:?}");
    assert!(messages[1].contains("lb.toml:1:25: `d`: this is a directory"), "{messages:?}");
}

#[test]
fn what_is_no_file_is_refused_without_waiting() {
    let place = Place::new(&[]);
    assert!(place.messages()[0].contains("there is no such file"));
    let made = Command::new("mkfifo").arg(place.path("lb.toml")).status().expect("mkfifo");
    assert!(made.success());
    assert!(place.messages()[0].contains("FIFO"));
    fs::remove_file(place.path("lb.toml")).expect("remove");
    symlink("/dev/zero", place.path("lb.toml")).expect("link");
    assert!(place.messages()[0].contains("device"));
    fs::remove_file(place.path("lb.toml")).expect("remove");
    fs::create_dir(place.path("lb.toml")).expect("directory");
    assert!(place.messages()[0].contains("a directory"));
}

#[test]
fn there_is_an_end_to_what_is_read() {
    let place = Place::new(&[]);
    let file = File::create(place.path("lb.toml")).expect("file");
    file.set_len(LARGEST + 1).expect("length");
    assert!(place.messages()[0].contains("larger than 16 MiB"), "{:?}", place.messages());
    fs::write(place.path("lb.toml"), "include = [\"b.toml\"]\n").expect("write");
    let file = File::create(place.path("b.toml")).expect("file");
    file.set_len(LARGEST - 5).expect("length");
    assert!(place.messages()[0].contains("b.toml: the configuration is larger"), "{:?}", place.messages());
}

#[test]
fn permissions_are_told() {
    let place = Place::new(&[("lb.toml", MAIN)]);
    let closed = fs::Permissions::from_mode(0o000);
    fs::set_permissions(place.path("lb.toml"), closed).expect("chmod");
    // The superuser reads it all the same.
    if File::open(place.path("lb.toml")).is_err() {
        assert!(place.messages()[0].contains("no permission"), "{:?}", place.messages());
    }
    assert!(unreadable(&io::Error::from(io::ErrorKind::PermissionDenied)).hint.is_some());
}

#[test]
fn the_trail_has_the_directories_of_globs() {
    let text = format!("include = [\"conf.d/*.toml\", \"sites/*/lb.toml\"]\n{MAIN}");
    let place = Place::new(&[("lb.toml", &text), ("conf.d/a.toml", ""), ("sites/one/x", "")]);
    let source = Source::new(place.path("lb.toml"));
    let trail = source.trail(&source.read(&|_| None));
    let root = place.0.path().canonicalize().expect("its name");
    for name in ["lb.toml", "conf.d", "conf.d/a.toml", "sites", "sites/one"] {
        assert!(trail.watched.contains(&root.join(name)), "{name}: {trail:?}");
    }
    assert!(trail.watched.contains(&root));
}

#[test]
fn a_further_read_finds_what_a_first_one_would() {
    let text = format!("include = [\"conf.d/*.toml\"]\n{MAIN}");
    let place = Place::new(&[("lb.toml", &text), ("conf.d/a.toml", "")]);
    let source = Source::new(place.path("lb.toml"));
    let mut last = source.read(&|_| None);
    for (file, text) in [("conf.d/b.toml", ""), ("lb.toml", MAIN), ("lb.toml", &text)] {
        fs::write(place.path(file), text).expect("write");
        let found = source.read_again(&last, &|_| None);
        assert_eq!(found, source.read(&|_| None));
        assert_ne!(found, last);
        last = found;
    }
}
