//! Real files in real directories.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use tempfile::TempDir;

use super::*;

const MAIN: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[server]]\nname = \"a\"\naddress = \"a:1\"\n";

struct TestDirectory(TempDir);

impl TestDirectory {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = Self(tempfile::tempdir().expect("a directory"));
        for (name, text) in files {
            let path = directory.path(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
            fs::write(path, text).expect("write");
        }
        directory
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self) -> LoadedConfig {
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
fn one_file_has_its_own_hash() {
    let directory = TestDirectory::new(&[("lb.toml", MAIN)]);
    let loaded = directory.load();
    assert!(loaded.result.is_ok());
    assert_eq!(loaded.sources.hash, source::sha256(MAIN.as_bytes()));
    assert_eq!(source::sha256(b"").len(), 64);
    assert!(!loaded.sources.unlinked);
    assert_eq!(loaded.sources, directory.load().sources);
}

#[test]
fn included_files_are_sorted_by_path_and_read_once() {
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
    let (here, there) = (TestDirectory::new(&files), TestDirectory::new(&files));
    symlink("nowhere", here.path("conf.d/.#b.toml")).expect("an editor's lock");
    fs::create_dir(here.path("conf.d/x.toml")).expect("a directory");
    let loaded = here.load();
    assert!(loaded.result.is_ok(), "{:?}", loaded.result);
    assert_eq!(names(&loaded.sources), ["lb.toml", "a.toml", "a1.toml", "b.toml"]);
    assert_eq!(loaded.sources.hash, there.load().sources.hash, "the same on every machine");
    fs::write(there.path("conf.d/b.toml"), "#").expect("write");
    assert_ne!(loaded.sources.hash, there.load().sources.hash);
}

#[test]
fn a_file_that_is_included_by_several_spellings_counts_once() {
    let server = "[[server]]\nname = \"b\"\naddress = \"b:1\"\n";
    for include in [
        "\"conf.d/b.toml\", \"conf.d/b.toml\"",
        "\"./conf.d/b.toml\", \"conf.d/b.toml\"",
        "\"conf.d/*.toml\", \"conf.d//b.toml\", \"conf.d/./b.toml\", \"conf.d/../conf.d/b.toml\"",
        "\"link.toml\", \"conf.d/b.toml\"",
        "\"conf.d/*.toml\", \"linked.d/*.toml\", \"link.toml\", \"./lb.toml\", \"main.toml\"",
        "\"DIRECTORY/conf.d/b.toml\", \"*.d/*.toml\"",
    ] {
        let directory = TestDirectory::new(&[("conf.d/b.toml", server)]);
        symlink("conf.d/b.toml", directory.path("link.toml")).expect("a link");
        symlink("conf.d", directory.path("linked.d")).expect("a link");
        symlink("lb.toml", directory.path("main.toml")).expect("a link");
        let include = include.replace("DIRECTORY", &directory.0.path().display().to_string());
        fs::write(directory.path("lb.toml"), format!("include = [{include}]\n{MAIN}")).expect("write");
        let loaded = directory.load();
        assert!(loaded.result.is_ok(), "{include}: {:?}", loaded.result);
        assert_eq!(loaded.sources.files.len(), 2, "{include}: {:?}", names(&loaded.sources));
    }
}

#[test]
fn an_include_that_cannot_be_read_is_a_problem_with_its_place() {
    let directory = TestDirectory::new(&[]);
    fs::write(directory.path("lb.toml"), format!("include = [\"gone.toml\", \"d\", \"e/*.toml\"]\n{MAIN}"))
        .expect("write");
    fs::create_dir(directory.path("d")).expect("directory");
    let messages = directory.messages();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages[0].contains("lb.toml:1:12: `gone.toml`: there is no such file"), "{messages:?}");
    assert!(messages[1].contains("lb.toml:1:25: `d`: this is a directory"), "{messages:?}");
}

#[test]
fn a_fifo_a_device_or_a_directory_is_a_problem_and_not_read() {
    let directory = TestDirectory::new(&[]);
    assert!(directory.messages()[0].contains("there is no such file"));
    let made = Command::new("mkfifo").arg(directory.path("lb.toml")).status().expect("mkfifo");
    assert!(made.success());
    assert!(directory.messages()[0].contains("FIFO"));
    fs::remove_file(directory.path("lb.toml")).expect("remove");
    symlink("/dev/zero", directory.path("lb.toml")).expect("link");
    assert!(directory.messages()[0].contains("device"));
    fs::remove_file(directory.path("lb.toml")).expect("remove");
    fs::create_dir(directory.path("lb.toml")).expect("directory");
    assert!(directory.messages()[0].contains("a directory"));
}

#[test]
fn opening_a_fifo_that_has_just_replaced_the_file_does_not_block() {
    let directory = TestDirectory::new(&[]);
    let path = directory.path("lb.toml");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    let (sender, opened) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(open(&path)));
    let file = opened.recv_timeout(std::time::Duration::from_secs(20)).expect("at once").expect("opened");
    assert!(require_file(&file.metadata().expect("metadata")).expect_err("a FIFO").message.contains("FIFO"));
}

#[test]
fn all_files_together_have_a_limit() {
    let directory = TestDirectory::new(&[]);
    let file = File::create(directory.path("lb.toml")).expect("file");
    file.set_len(MAX_BYTES + 1).expect("length");
    assert!(directory.messages()[0].contains("larger than 16 MiB"), "{:?}", directory.messages());
    fs::write(directory.path("lb.toml"), "include = [\"b.toml\"]\n").expect("write");
    let file = File::create(directory.path("b.toml")).expect("file");
    file.set_len(MAX_BYTES - 5).expect("length");
    assert!(directory.messages()[0].contains("b.toml: the configuration is larger"), "{:?}", directory.messages());
}

#[test]
fn a_missing_permission_is_a_problem_with_a_hint() {
    let directory = TestDirectory::new(&[("lb.toml", MAIN)]);
    let closed = fs::Permissions::from_mode(0o000);
    fs::set_permissions(directory.path("lb.toml"), closed).expect("chmod");
    // Root can read it nevertheless.
    if File::open(directory.path("lb.toml")).is_err() {
        assert!(directory.messages()[0].contains("no permission"), "{:?}", directory.messages());
    }
    assert!(read_fault(&io::Error::from(io::ErrorKind::PermissionDenied)).hint.is_some());
}

#[test]
fn the_trail_contains_the_directories_of_globs() {
    let text = format!("include = [\"conf.d/*.toml\", \"sites/*/lb.toml\"]\n{MAIN}");
    let directory = TestDirectory::new(&[("lb.toml", &text), ("conf.d/a.toml", ""), ("sites/one/x", "")]);
    let source = Source::new(directory.path("lb.toml"));
    let trail = source.trail(&source.read(&|_| None));
    let root = directory.0.path().canonicalize().expect("its name");
    for name in ["lb.toml", "conf.d", "conf.d/a.toml", "sites", "sites/one"] {
        assert!(trail.watched.contains(&root.join(name)), "{name}: {trail:?}");
    }
    assert!(trail.watched.contains(&root));
}

#[test]
fn a_later_read_returns_the_same_as_a_first_one() {
    let text = format!("include = [\"conf.d/*.toml\"]\n{MAIN}");
    let directory = TestDirectory::new(&[("lb.toml", &text), ("conf.d/a.toml", "")]);
    let source = Source::new(directory.path("lb.toml"));
    let mut last = source.read(&|_| None);
    for (file, text) in [("conf.d/b.toml", ""), ("lb.toml", MAIN), ("lb.toml", &text)] {
        fs::write(directory.path(file), text).expect("write");
        let sources = source.read_again(&last, &|_| None);
        assert_eq!(sources, source.read(&|_| None));
        assert_ne!(sources, last);
        last = sources;
    }
}
