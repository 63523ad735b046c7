//! Tests on real files. The cases that need a mount are in tests/outside.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::*;

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

fn directory_with(text: &str) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("lb.toml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

#[test]
fn a_file_is_replaced_atomically_and_keeps_its_mode() {
    let (directory, path) = directory_with("old");
    for mode in [0o600, 0o640, 0o666, 0o755] {
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        // A process that has the old file open reads it to its end.
        let mut reader = File::open(&path).unwrap();
        assert_eq!(replace(&path, b"old", b"a newer one").unwrap(), Written::Renamed);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
        let mut read = String::new();
        io::Read::read_to_string(&mut reader, &mut read).unwrap();
        assert_eq!((read.as_str(), fs::read_to_string(&path).unwrap().as_str()), ("old", "a newer one"));
    }
    assert_eq!(names(directory.path()), ["lb.toml"]);
}

#[test]
fn the_owner_is_kept() {
    let (_directory, path) = directory_with("old");
    // Only root may change a file's owner.
    if std::os::unix::fs::chown(&path, Some(1234), Some(4321)).is_ok() {
        assert_eq!(replace(&path, b"old", b"new").unwrap(), Written::Renamed);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (1234, 4321));
    }
}

#[test]
fn symbolic_links_are_kept() {
    let (directory, path) = directory_with("old");
    let elsewhere = TempDir::new().unwrap();
    symlink(&path, elsewhere.path().join("a")).unwrap();
    symlink("a", elsewhere.path().join("b")).unwrap();
    let link = elsewhere.path().join("b");
    assert_eq!(replace(&link, b"old", b"new").unwrap(), Written::Renamed);
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("a"));
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(
        (names(directory.path()), names(elsewhere.path())),
        (vec!["lb.toml".into()], vec!["a".into(), "b".into()])
    );
}

#[test]
fn a_file_that_has_changed_is_left_alone() {
    let (directory, path) = directory_with("newer");
    assert!(matches!(replace(&path, b"old", b"mine"), Err(ReplaceError::Changed)));
    assert!(matches!(in_place(&path, b"old", b"mine"), Err(ReplaceError::Changed)));
    assert_eq!(fs::read(&path).unwrap(), b"newer");
    assert_eq!(names(directory.path()), ["lb.toml"]);
    fs::remove_file(&path).unwrap();
    replace(&path, b"old", b"mine").unwrap_err();
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn a_file_overwritten_in_place_is_the_same_file() {
    let (directory, path) = directory_with("old and long");
    let inode = fs::metadata(&path).unwrap().ino();
    for (old, new) in [("old and long", "short"), ("short", "quite long again")] {
        assert_eq!(in_place(&path, old.as_bytes(), new.as_bytes()).unwrap(), Written::InPlace);
        assert_eq!(fs::read_to_string(&path).unwrap(), new);
    }
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(names(directory.path()), ["lb.toml"]);
}

#[test]
fn concurrent_edits_wait_for_each_other() {
    let (directory, path) = directory_with("0");
    let edit = |path: &Path| {
        let _lock = Lock::take(path).unwrap();
        let old = fs::read_to_string(path).unwrap();
        let new = (old.parse::<u32>().unwrap() + 1).to_string();
        replace(path, old.as_bytes(), new.as_bytes()).unwrap();
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20).for_each(|_| edit(&path)));
        }
    });
    assert_eq!(fs::read_to_string(&path).unwrap(), "160");
    assert_eq!(names(directory.path()), ["lb.toml"]);
}
