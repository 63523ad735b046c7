//! Reading: the bytes of the main file and of what it includes, and where to look for changes.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::config::Config;
use crate::config::file::amend::{Baseline, amend};
use crate::config::file::{self, Env, Include};
use crate::config::problem::{Problem, Reason};
use crate::config::source::{self, SourceFile};
use crate::control::reload::trail::Trail;

/// All files together may have this many bytes.
pub const LARGEST: u64 = 16 << 20;

/// A glob takes no hidden file, such as an editor's lock, and `*` no `/`.
const GLOB: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
}

/// One read of all files. Two that are equal found the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// The main file, then the included ones by path; as many as could be read.
    pub files: Vec<SourceFile>,
    /// Names the content: the SHA-256 of the bytes if there is one file, else of the sorted lines
    /// `path  hash`, the paths relative to the main file's directory.
    pub hash: String,
    /// What the main file includes.
    pub includes: Vec<Include>,
    /// What could not be read.
    pub problems: Vec<Problem>,
    /// The main file has been removed from its directory but is still what the path shows: a file
    /// that was mounted by itself and replaced outside. Nothing newer will ever be seen here.
    pub unlinked: bool,
}

/// What was read, and what it means.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The bytes.
    pub sources: Sources,
    /// The configuration, or everything that is wrong; never an empty list.
    pub result: Result<Config, Vec<Problem>>,
}

/// Reads the file at `path` and what it includes, and makes a configuration of it.
#[must_use]
pub fn load(path: &Path, env: &Env<'_>) -> Loaded {
    Source::new(path).read(env).load(env)
}

impl Source {
    /// The configuration whose main file is at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The main file, as it was named.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the main file and what it includes. Blocks only as long as a disk does: what is not
    /// a regular file is not opened.
    #[must_use]
    pub fn read(&self, env: &Env<'_>) -> Sources {
        self.read_again(&self.of(Vec::new()), env)
    }

    /// The same after `last` was read: a file that has not changed is not hashed again, nor parsed for
    /// its includes. Whatever else is written beside it, such as a log, has it looked at.
    #[must_use]
    pub fn read_again(&self, last: &Sources, env: &Env<'_>) -> Sources {
        let mut left = LARGEST;
        let main = read_file(&self.path, last.files.first(), &mut left);
        let unlinked = main.as_ref().is_ok_and(|(_, metadata)| links(metadata) == 0);
        Sources { unlinked, ..self.read_around(main.map(|(file, _)| file), left, last, env) }
    }

    /// The same with a main file that `main` has, such as standard input.
    #[must_use]
    pub fn read_from(&self, main: impl io::Read, env: &Env<'_>) -> Sources {
        let mut left = LARGEST;
        let bytes = read_all(main, 0, &mut left).map(|bytes| SourceFile::new(&self.path, bytes));
        self.read_around(bytes, left, &self.of(Vec::new()), env)
    }

    /// What the main file includes, and all of it together; `left` is how many bytes it may have.
    fn read_around(&self, main: Result<SourceFile, Reason>, mut left: u64, last: &Sources, env: &Env<'_>) -> Sources {
        let mut sources = self.of(Vec::new());
        match main {
            Ok(file) => {
                sources.includes = match last.files.first() {
                    Some(before) if *before == file => last.includes.clone(),
                    _ => file::includes(&file, env),
                };
                sources.files.push(file);
                self.read_included(last, &mut left, &mut sources);
            }
            Err(fault) => sources.problems.push(Problem::of_file(&self.path, fault)),
        }
        sources.hash = self.hash(&sources.files);
        sources
    }

    /// These files as if they had been read now, one by one: none is said to include another.
    #[must_use]
    pub fn of(&self, files: Vec<SourceFile>) -> Sources {
        let hash = self.hash(&files);
        Sources { files, hash, includes: Vec::new(), problems: Vec::new(), unlinked: false }
    }

    /// What to watch so that no change of these files goes unseen: the files, and every directory
    /// where one of them, or a symbolic link on the way to it, can be replaced.
    #[must_use]
    pub fn trail(&self, sources: &Sources) -> Trail {
        let mut trail = Trail::default();
        trail.follow(&self.path);
        for file in sources.files.iter().skip(1) {
            trail.follow(&file.path);
        }
        for Include { pattern, .. } in &sources.includes {
            for directory in self.directories(pattern) {
                trail.follow(&directory);
            }
        }
        trail
    }

    fn read_included(&self, last: &Sources, left: &mut u64, sources: &mut Sources) {
        let main = fs::canonicalize(&self.path).ok();
        let mut paths = BTreeSet::new();
        let mut named = BTreeSet::new();
        for Include { pattern, place } in &sources.includes {
            if is_glob(pattern) {
                paths.extend(self.glob(pattern).filter(|path| !path.is_dir()));
                continue;
            }
            let path = self.directory().join(pattern);
            let metadata = fs::metadata(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    Reason::new("there is no such file").hint("check the name; it begins at the main file's directory")
                }
                _ => unreadable(&error),
            });
            match metadata.and_then(|metadata| regular(&metadata)) {
                Ok(()) => {
                    named.insert(path.clone());
                    paths.insert(path);
                }
                Err(fault) => sources.problems.push(Problem {
                    message: format!("`{pattern}`: {}", fault.message),
                    hint: fault.hint,
                    ..place.clone()
                }),
            }
        }
        // A glob in the main file's own directory finds that too.
        paths.retain(|path| main.is_none() || fs::canonicalize(path).ok() != main);
        // Both are in the order of their paths.
        let mut before = last.files.iter().skip(1).peekable();
        for path in paths {
            while before.next_if(|file| file.path < path).is_some() {}
            match read_file(&path, before.peek().copied().filter(|file| file.path == path), left) {
                Ok((file, _)) => sources.files.push(file),
                // A glob named it, and it went before it was read.
                Err(_) if !named.contains(&path) && fs::symlink_metadata(&path).is_err() => {}
                Err(fault) => sources.problems.push(Problem::of_file(path, fault)),
            }
        }
    }

    /// The directories whose entries decide what a pattern names.
    fn directories(&self, pattern: &str) -> Vec<PathBuf> {
        let Some(parent) = Path::new(pattern).parent() else {
            return Vec::new();
        };
        let prefixes = parent.ancestors().filter_map(Path::to_str);
        prefixes
            .flat_map(|prefix| match is_glob(prefix) {
                true => self.glob(prefix).filter(|path| path.is_dir()).collect(),
                false => vec![self.directory().join(prefix)],
            })
            .collect()
    }

    fn glob(&self, pattern: &str) -> impl Iterator<Item = PathBuf> + use<> {
        let pattern = if Path::new(pattern).is_absolute() {
            pattern.to_owned()
        } else {
            let directory = Pattern::escape(&self.directory().to_string_lossy());
            format!("{directory}/{pattern}")
        };
        // A bad pattern is the parser's to tell; what cannot be listed has no files to read.
        let found = glob::glob_with(&pattern, GLOB).ok();
        found.into_iter().flatten().filter_map(Result::ok)
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        }
    }

    fn hash(&self, files: &[SourceFile]) -> String {
        let directory = self.directory();
        let relative = |file: &SourceFile| {
            let path = file.path.strip_prefix(directory).unwrap_or(&file.path);
            format!("{}  {}\n", path.display(), file.hash)
        };
        match files {
            [] => String::new(),
            [one] => one.hash.clone(),
            several => {
                let mut lines: Vec<String> = several.iter().map(relative).collect();
                lines.sort();
                source::sha256(lines.concat().as_bytes())
            }
        }
    }
}

impl Sources {
    /// The configuration that these bytes mean.
    #[must_use]
    pub fn load(self, env: &Env<'_>) -> Loaded {
        self.load_after(None, env)
    }

    /// Like [`Self::load`], but parses only the servers that differ from the baseline, where that is possible.
    #[must_use]
    pub fn load_after(self, baseline: Option<&Baseline>, env: &Env<'_>) -> Loaded {
        let mut problems = self.problems.clone();
        let parsed = match self.files.as_slice() {
            [] => Err(Vec::new()),
            [only] if let Some(config) = baseline.and_then(|baseline| amend(baseline, only, env)) => Ok(config),
            files => file::parse(files, env),
        };
        let result = match parsed {
            Ok(config) if problems.is_empty() => Ok(config),
            Ok(_) => Err(problems),
            Err(more) => {
                problems.extend(more);
                Err(problems)
            }
        };
        Loaded { sources: self, result }
    }
}

impl Loaded {
    /// The baseline for the next edit, if this configuration is valid and in a single file.
    #[must_use]
    pub fn baseline(&self) -> Option<Baseline> {
        match (self.sources.files.as_slice(), &self.result) {
            ([file], Ok(config)) if self.sources.includes.is_empty() => {
                Some(Baseline { file: file.clone(), config: config.clone() })
            }
            _ => None,
        }
    }
}

/// The file at `path`, which was `before` when it was read last.
fn read_file(path: &Path, before: Option<&SourceFile>, left: &mut u64) -> Result<(SourceFile, Metadata), Reason> {
    // Opening a device or a FIFO may do something or wait for ever, so this is looked at first.
    fs::metadata(path).map_err(|error| unreadable(&error)).and_then(|metadata| regular(&metadata))?;
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    let metadata = file.metadata().map_err(|error| unreadable(&error))?;
    regular(&metadata)?;
    let bytes = read_all(file, metadata.len(), left).map_err(|fault| match metadata.len() {
        length if length > LARGEST => fault.hint(format!("this file has {length} bytes; is it the right one?")),
        _ => fault,
    })?;
    let file = match before {
        Some(before) if before.bytes == bytes => before.clone(),
        _ => SourceFile::new(path, bytes),
    };
    Ok((file, metadata))
}

/// All bytes, of which some `expected` are likely, if they are no more than `left`.
fn read_all(file: impl io::Read, expected: u64, left: &mut u64) -> Result<Vec<u8>, Reason> {
    let mut bytes = Vec::with_capacity(usize::try_from(expected.min(*left)).unwrap_or(0) + 1);
    file.take(*left + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    *left = left
        .checked_sub(bytes.len() as u64)
        .ok_or_else(|| Reason::new("the configuration is larger than 16 MiB").hint("is this the right file?"))?;
    Ok(bytes)
}

fn regular(metadata: &Metadata) -> Result<(), Reason> {
    if metadata.is_file() {
        return Ok(());
    }
    let hint = match metadata.is_dir() {
        true => "name a file in it, or, in `include`, all of them: `conf.d/*.toml`",
        false => "name a regular file",
    };
    let what = if metadata.is_dir() { "a directory" } else { "a device, FIFO or socket" };
    Err(Reason::new(format!("this is {what}, not a file")).hint(hint))
}

fn unreadable(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::NotFound => Reason::new("there is no such file")
            .hint("say where it is with `--config FILE` or LB_CONFIG; `lb demo` writes one to begin with"),
        io::ErrorKind::PermissionDenied => {
            Reason::new("no permission to read it").hint("let the user that runs lb read it, and enter its directories")
        }
        _ => Reason::new(format!("it cannot be read: {error}")),
    }
}

fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

#[cfg(unix)]
fn links(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(not(unix))]
fn links(_: &Metadata) -> u64 {
    1
}

#[cfg(test)]
mod tests;
