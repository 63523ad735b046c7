//! The configuration's files: reads the main file and those it includes, and finds what to watch for changes.

mod changed;
pub mod referenced;

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::config::Config;
use crate::config::file::amend::{Baseline, amend};
use crate::config::file::{self, Env, Include};
use crate::config::notes::Note;
use crate::config::problem::{Problem, Reason};
use crate::config::source::{self, SourceFile};
use crate::control::certificates::files::ReferencedFiles;

/// The limit for all files together.
const MAX_BYTES: u64 = 16 << 20;

/// A glob matches no hidden file, such as an editor's lock file, and `*` matches no `/`.
const GLOB: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// The location of a configuration: its main file.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
}

/// One read of all files, compared by content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// The main file, then the included ones by path, except those that could not be read.
    pub files: Vec<SourceFile>,
    /// Identifies the content: the SHA-256 of the bytes if there is one file, else of the sorted lines
    /// `path  hash`, with paths relative to the main file's directory.
    pub hash: String,
    /// The `include` entries of the main file.
    pub includes: Vec<Include>,
    /// Those of them that are globs and match no file.
    pub unmatched: Vec<Include>,
    /// The files that could not be read, and why.
    pub problems: Vec<Problem>,
    /// The files that the configuration refers to. The hash does not cover them.
    pub referenced: ReferencedFiles,
    /// Those that the configuration in force refers to, which may be another one.
    pub in_force: ReferencedFiles,
    /// Whether the main file is gone from its directory and only visible through a mount: a file that was mounted
    /// by itself and replaced outside. No later edit of it can be seen here.
    pub unlinked: bool,
}

/// Files and their configuration.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    /// The files.
    pub sources: Sources,
    /// The configuration, or all of its problems, of which there is at least one.
    pub result: Result<Config, Vec<Problem>>,
}

/// Reads and parses the file at `path` and the files that it includes.
#[must_use]
pub fn load(path: &Path, env: &Env<'_>) -> LoadedConfig {
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

    /// Reads the main file and the files that it includes. Never waits for anything but the disk: a FIFO or a
    /// device is not read but reported as a problem.
    #[must_use]
    pub fn read(&self, env: &Env<'_>) -> Sources {
        self.read_again(&self.with_files(Vec::new()), env)
    }

    /// Like `read`, but a file that is as in `last` is neither hashed nor parsed for its includes again. The reader
    /// calls this whenever anything in the directory is written, such as a log.
    #[must_use]
    pub fn read_again(&self, last: &Sources, env: &Env<'_>) -> Sources {
        let mut budget = MAX_BYTES;
        let main = read_file(&self.path, last.files.first(), &mut budget);
        let unlinked = main.as_ref().is_ok_and(|(_, metadata)| link_count(metadata) == 0);
        let referenced = last.referenced.again();
        let in_force = last.in_force.again_unless(&referenced);
        Sources { unlinked, referenced, in_force, ..self.read_rest(main.map(|(file, _)| file), budget, last, env) }
    }

    /// Like `read`, with the main file's content from a stream, such as standard input.
    #[must_use]
    pub fn read_from(&self, main: impl io::Read, env: &Env<'_>) -> Sources {
        let mut budget = MAX_BYTES;
        let bytes = read_all(main, 0, &mut budget).map(|bytes| SourceFile::new(&self.path, bytes));
        self.read_rest(bytes, budget, &self.with_files(Vec::new()), env)
    }

    /// Reads the files that the main file includes, at most `budget` bytes, and puts all of them together.
    fn read_rest(&self, main: Result<SourceFile, Reason>, mut budget: u64, last: &Sources, env: &Env<'_>) -> Sources {
        let mut sources = self.with_files(Vec::new());
        match main {
            Ok(file) => {
                sources.includes = match last.files.first() {
                    Some(before) if *before == file => last.includes.clone(),
                    _ => file::includes(&file, env),
                };
                sources.files.push(file);
                self.read_included(last, &mut budget, &mut sources);
            }
            Err(reason) => sources.problems.push(Problem::of_file(&self.path, reason)),
        }
        sources.hash = self.hash(&sources.files);
        sources
    }

    /// These files as if they had just been read, without includes.
    #[must_use]
    pub fn with_files(&self, files: Vec<SourceFile>) -> Sources {
        let hash = self.hash(&files);
        let (includes, unmatched, problems) = (Vec::new(), Vec::new(), Vec::new());
        let (referenced, in_force) = (ReferencedFiles::default(), ReferencedFiles::default());
        Sources { files, hash, includes, unmatched, problems, referenced, in_force, unlinked: false }
    }

    fn read_included(&self, last: &Sources, budget: &mut u64, sources: &mut Sources) {
        let main = fs::canonicalize(&self.path).ok();
        let mut paths = BTreeSet::new();
        let mut named_directly = BTreeSet::new();
        // The parser reports an empty one.
        for include @ Include { pattern, shown, place } in
            sources.includes.iter().filter(|include| !include.pattern.is_empty())
        {
            if is_glob(pattern) {
                let mut found = self.glob(pattern).filter(|path| !path.is_dir()).peekable();
                if found.peek().is_none() {
                    sources.unmatched.push(include.clone());
                }
                paths.extend(found);
                continue;
            }
            let path = self.directory().join(pattern);
            let metadata = fs::metadata(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Reason::new("there is no such file")
                    .hint("check the name; it is relative to the main file's directory"),
                _ => read_fault(&error),
            });
            match metadata.and_then(|metadata| require_file(&metadata)) {
                Ok(()) => {
                    named_directly.insert(path.clone());
                    paths.insert(path);
                }
                Err(reason) => sources.problems.push(Problem {
                    message: format!("`{shown}`: {}", reason.message),
                    hint: reason.hint,
                    ..place.clone()
                }),
            }
        }
        // A glob may match the main file itself, and several spellings or links may lead to one file.
        let mut read: HashSet<PathBuf> = main.into_iter().collect();
        paths.retain(|path| fs::canonicalize(path).map_or(true, |real| read.insert(real)));
        // Both lists are sorted by path.
        let mut before = last.files.iter().skip(1).peekable();
        for path in paths {
            while before.next_if(|file| file.path < path).is_some() {}
            match read_file(&path, before.peek().copied().filter(|file| file.path == path), budget) {
                Ok((file, _)) => sources.files.push(file),
                // A glob matched it, and it was deleted before it could be read.
                Err(_) if !named_directly.contains(&path) && fs::symlink_metadata(&path).is_err() => {}
                Err(_) if is_broken_link(&path) => {
                    let reason = Reason::new("this is a link to a file that does not exist");
                    let reason = reason.hint("restore that file, or remove the link");
                    sources.problems.push(Problem::of_file(path, reason));
                }
                Err(reason) => sources.problems.push(Problem::of_file(path, reason)),
            }
        }
    }

    /// The directories whose entries decide which files a pattern matches.
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
        matches_of(&pattern)
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
    /// Logs the includes that match no file.
    pub fn warn_of_unmatched(&self) {
        for include in &self.unmatched {
            tracing::warn!("{}", Note::unmatched(include));
        }
    }

    /// Parses the files.
    #[must_use]
    pub fn load(self, env: &Env<'_>) -> LoadedConfig {
        self.load_after(None, env)
    }

    /// Parses the files, or if possible only their difference from a file that was parsed before. Reads the files that
    /// they refer to, if these are others than before.
    #[must_use]
    pub fn load_after(mut self, baseline: Option<&Baseline>, env: &Env<'_>) -> LoadedConfig {
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
        if let Ok(config) = &result {
            self.referenced.follow(config);
        }
        LoadedConfig { sources: self, result }
    }
}

impl LoadedConfig {
    /// The file and its configuration for [`Sources::load_after`], if it is valid and the only file.
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

/// The paths that a glob matches.
fn matches_of(pattern: &str) -> impl Iterator<Item = PathBuf> + use<> {
    // The parser reports an invalid pattern. A directory that cannot be listed has no files to read.
    let matches = glob::glob_with(pattern, GLOB).ok();
    matches.into_iter().flatten().filter_map(Result::ok)
}

/// Reads the file at `path`. Returns `before` if that has the same content.
fn read_file(path: &Path, before: Option<&SourceFile>, budget: &mut u64) -> Result<(SourceFile, Metadata), Reason> {
    // Checked before opening, because merely opening some devices has side effects.
    fs::metadata(path).map_err(|error| read_fault(&error)).and_then(|metadata| require_file(&metadata))?;
    let file = open(path).map_err(|error| read_fault(&error))?;
    let metadata = file.metadata().map_err(|error| read_fault(&error))?;
    require_file(&metadata)?;
    let bytes = read_all(file, metadata.len(), budget).map_err(|reason| match metadata.len() {
        length if length > MAX_BYTES => reason.hint(format!("this file has {length} bytes; is it the right one?")),
        _ => reason,
    })?;
    let file = match before {
        Some(before) if before.bytes == bytes => before.clone(),
        _ => SourceFile::new(path, bytes),
    };
    Ok((file, metadata))
}

/// Opens a file without waiting for the other end of a FIFO, which may have replaced it a moment ago: the reader
/// would wait for a writer forever and notice no further edit.
fn open(path: &Path) -> io::Result<File> {
    match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        // A file server has leased the file to a client, which must give the lease back within a timeout.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => File::open(path),
        opened => opened,
    }
}

/// Reads to the end, but at most `budget` bytes. `expected` is the likely number.
fn read_all(file: impl io::Read, expected: u64, budget: &mut u64) -> Result<Vec<u8>, Reason> {
    let mut bytes = Vec::with_capacity(usize::try_from(expected.min(*budget)).unwrap_or(0) + 1);
    file.take(*budget + 1).read_to_end(&mut bytes).map_err(|error| read_fault(&error))?;
    *budget = budget
        .checked_sub(bytes.len() as u64)
        .ok_or_else(|| Reason::new("the configuration is larger than 16 MiB").hint("is this the right file?"))?;
    Ok(bytes)
}

fn require_file(metadata: &Metadata) -> Result<(), Reason> {
    if metadata.is_file() {
        return Ok(());
    }
    let hint = match metadata.is_dir() {
        true => "name a file in it, or, in `include`, all of them: `conf.d/*.toml`",
        false => "name a regular file; `lb check -` and `lb plan -` read from a pipe",
    };
    let kind = if metadata.is_dir() { "a directory" } else { "a device, FIFO or socket" };
    Err(Reason::new(format!("this is {kind}, not a file")).hint(hint))
}

fn read_fault(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::NotFound => Reason::new("there is no such file")
            .hint("check the name; `--config FILE` or LB_CONFIG names another file, and `lb demo` writes one"),
        io::ErrorKind::PermissionDenied => Reason::new("no permission to read it")
            .hint("give lb's user read permission on the file, and access to its directories"),
        _ => Reason::new(format!("it cannot be read: {error}")),
    }
}

fn is_broken_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
        && fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

fn link_count(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(test)]
mod tests;
