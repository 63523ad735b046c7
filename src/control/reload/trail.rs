//! The trail of a file: every directory entry that, if replaced, makes the path lead to another file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// As many symbolic links as the kernel follows.
const MAX_LINKS: usize = 40;

/// The paths to watch for a set of files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trail {
    /// Files and directories, without symbolic links on the way.
    pub watched: BTreeSet<PathBuf>,
    /// The entries that lead to the files. A file that is moved onto one of them is complete.
    pub entries: BTreeSet<PathBuf>,
}

impl Trail {
    /// The paths of both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.watched.extend(other.watched);
        self.entries.extend(other.entries);
        self
    }

    /// Adds the path to a file, link by link. If a part of it is missing, the last directory that exists is watched
    /// until that part appears.
    pub fn follow(&mut self, path: &Path) {
        let Ok(absolute) = std::path::absolute(path) else {
            return;
        };
        let mut rest: Vec<OsString> = parts(&absolute);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            let entry = at.join(&part);
            let Ok(metadata) = fs::symlink_metadata(&entry) else {
                self.watched.insert(at);
                self.entries.insert(entry);
                return;
            };
            if metadata.is_symlink() {
                links += 1;
                let Ok(target) = fs::read_link(&entry) else {
                    return;
                };
                self.watched.insert(at.clone());
                self.entries.insert(entry);
                if links > MAX_LINKS {
                    return;
                }
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                rest.extend(parts(&target));
                continue;
            }
            if rest.is_empty() {
                self.watched.insert(at.clone());
                self.watched.insert(entry.clone());
                self.entries.insert(entry.clone());
            }
            at = entry;
        }
    }
}

/// The components of a path, the last first.
fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn set(directory: &Path, names: &[&str]) -> BTreeSet<PathBuf> {
        names
            .iter()
            .map(|name| match *name {
                "" => directory.to_owned(),
                name => directory.join(name),
            })
            .collect()
    }

    #[test]
    fn a_mounted_configmap_is_followed_through_both_links() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().canonicalize().expect("its name");
        fs::create_dir(root.join("..1")).expect("data");
        fs::write(root.join("..1/lb.toml"), "").expect("file");
        symlink("..1", root.join("..data")).expect("link");
        symlink("..data/lb.toml", root.join("lb.toml")).expect("link");
        let mut trail = Trail::default();
        trail.follow(&root.join("lb.toml"));
        assert_eq!(trail.watched, set(&root, &["", "..1", "..1/lb.toml"]));
        assert_eq!(trail.entries, set(&root, &["lb.toml", "..data", "..1/lb.toml"]));
    }

    #[test]
    fn a_missing_path_is_awaited_where_it_would_appear() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().canonicalize().expect("its name");
        let mut trail = Trail::default();
        trail.follow(&root.join("a/b/lb.toml"));
        assert_eq!(trail.watched, set(&root, &[""]));
        assert_eq!(trail.entries, set(&root, &["a"]));
    }

    #[test]
    fn a_loop_of_links_ends() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().canonicalize().expect("its name");
        symlink("b", root.join("a")).expect("link");
        symlink("../x/a", root.join("b")).expect("link");
        symlink(&root, root.join("x")).expect("link");
        let mut trail = Trail::default();
        trail.follow(&root.join("a"));
        trail.follow(&root.join("x/b"));
        assert!(trail.entries.contains(&root.join("a")));
    }
}
