//! Collects problems, and turns locations into lines, columns and excerpts.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use memchr::memchr_iter;

use super::Location;
use crate::config::problem::{Problem, Reason};
use crate::config::secret::mask_ranges;
use crate::config::source::SourceFile;

/// Further problems are only counted: nobody reads more, and each keeps a copy of its line.
const MAX_PROBLEMS: usize = 1000;

/// How many characters of a line are kept in an excerpt.
const MAX_LINE: usize = 1000;

/// The files and the problems in them. Every reader of a table holds a shared reference to it, hence the cells.
pub(super) struct Report<'a> {
    texts: Vec<SourceText<'a>>,
    /// With the index of each problem's file.
    problems: RefCell<Vec<(usize, ProblemKind, Problem)>>,
    /// The lines, by file, of each syntax error and of the table around it. Problems there may be consequences of the
    /// syntax error, so only those in other tables are reported.
    unreliable: RefCell<Vec<(usize, RangeInclusive<usize>)>>,
    omitted: Cell<usize>,
}

/// The subject of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProblemKind {
    /// The text is not valid TOML.
    Syntax,
    /// The TOML is not a valid configuration.
    Meaning,
}

struct SourceText<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    /// The offset of each line.
    lines: Vec<usize>,
}

impl<'a> Report<'a> {
    pub(super) fn new(files: &'a [SourceFile]) -> Self {
        Self {
            texts: files.iter().map(SourceText::new).collect(),
            problems: RefCell::default(),
            unreliable: RefCell::default(),
            omitted: Cell::new(0),
        }
    }

    pub(super) fn bytes(&self, file: usize) -> &'a [u8] {
        self.texts[file].bytes
    }

    /// The directory of the file that a location is in; empty if there is no file, so that all keys have their defaults.
    pub(super) fn directory(&self, location: Location) -> PathBuf {
        let directory = self.texts.get(location.file).and_then(|text| text.path.parent());
        directory.map_or_else(PathBuf::new, Path::to_owned)
    }

    /// Records a problem.
    pub(super) fn at(&self, location: Location, reason: Reason) {
        self.at_with(location, || reason);
    }

    /// Like [`Self::at`], for a reason that is expensive to compute: it is not computed for problems beyond the limit.
    pub(super) fn at_with(&self, location: Location, reason: impl FnOnce() -> Reason) {
        self.add(location.file, ProblemKind::Meaning, || self.problem(location, reason()));
    }

    /// Records a syntax error.
    pub(super) fn syntax(&self, location: Location, reason: Reason) {
        self.add(location.file, ProblemKind::Syntax, || {
            let lines = self.texts[location.file].unreliable_lines(location);
            self.unreliable.borrow_mut().push((location.file, lines));
            self.problem(location, reason)
        });
    }

    /// Records a problem of the configuration as a whole.
    pub(super) fn whole(&self, reason: Reason) {
        self.add(0, ProblemKind::Meaning, || {
            let main = self.texts.first().map_or(Path::new(""), |text| text.path);
            Problem::of_file(main, reason)
        });
    }

    pub(super) fn has_syntax_errors(&self) -> bool {
        !self.unreliable.borrow().is_empty()
    }

    /// Returns the problem at a location without recording it.
    pub(super) fn problem(&self, location: Location, reason: Reason) -> Problem {
        let text = &self.texts[location.file];
        let line = text.line_of(location.start);
        let full = String::from_utf8_lossy(text.line(line));
        let before = characters(&text.bytes[text.lines[line]..location.start.min(text.bytes.len())]);
        let rest = full.chars().skip(before).count();
        let width = characters(&text.bytes[location.start.min(location.end)..location.end]).min(rest);
        let (line_shown, width) = without_secrets(&full, before, width);
        Problem {
            file: text.path.into(),
            line: line + 1,
            column: before + 1,
            message: reason.message,
            hint: reason.hint,
            excerpt: if before < MAX_LINE { line_shown.chars().take(MAX_LINE).collect() } else { String::new() },
            width: width.max(1),
        }
    }

    /// Returns where `there` is, in words, for a message at `here`: `on line 3`, `in other.toml:3`.
    pub(super) fn describe(&self, here: Location, there: Location) -> String {
        let text = &self.texts[there.file];
        let line = text.line_of(there.start) + 1;
        if here.file == there.file { format!("on line {line}") } else { format!("in {}:{line}", text.path.display()) }
    }

    /// Returns the problems by file, line and column.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut found = self.problems.into_inner();
        let unreliable = self.unreliable.into_inner();
        if !unreliable.is_empty() {
            let reliable =
                |file, line| line > 0 && !unreliable.iter().any(|(f, lines)| *f == file && lines.contains(&line));
            found.retain(|(file, kind, problem)| *kind == ProblemKind::Syntax || reliable(*file, problem.line));
        }
        found.sort_by_key(|(file, _, problem)| (*file, problem.line, problem.column));
        let mut problems: Vec<Problem> = found.into_iter().map(|(_, _, problem)| problem).collect();
        problems.dedup();
        if let (more @ 1.., Some(last)) = (self.omitted.get(), problems.last()) {
            let reason = Reason::new(format!("and {more} more problems"));
            problems.push(Problem::of_file(last.file.clone(), reason));
        }
        problems
    }

    fn add(&self, file: usize, kind: ProblemKind, problem: impl FnOnce() -> Problem) {
        if self.problems.borrow().len() < MAX_PROBLEMS {
            let problem = problem();
            self.problems.borrow_mut().push((file, kind, problem));
        } else {
            self.omitted.set(self.omitted.get() + 1);
        }
    }
}

impl<'a> SourceText<'a> {
    fn new(file: &'a SourceFile) -> Self {
        Self {
            path: &file.path,
            bytes: &file.bytes,
            lines: std::iter::once(0).chain(memchr_iter(b'\n', &file.bytes).map(|end| end + 1)).collect(),
        }
    }

    /// The line, from 0, of a byte.
    fn line_of(&self, byte: usize) -> usize {
        let byte = byte.min(self.bytes.len());
        self.lines.partition_point(|start| *start <= byte) - 1
    }

    /// A line without its line ending.
    fn line(&self, line: usize) -> &'a [u8] {
        let end = self.lines.get(line + 1).map_or(self.bytes.len(), |next| next - 1);
        let bytes = &self.bytes[self.lines[line]..end];
        bytes.strip_suffix(b"\r").unwrap_or(bytes)
    }

    /// The lines, from 1, of a syntax error and of the table around it.
    fn unreliable_lines(&self, location: Location) -> RangeInclusive<usize> {
        let header = |line: &usize| self.line(*line).trim_ascii_start().starts_with(b"[");
        let (start, end) = (self.line_of(location.start), self.line_of(location.end));
        let first = (0..=start).rev().find(header).unwrap_or(0);
        let next = (start + 1..self.lines.len()).find(header);
        first + 1..=next.unwrap_or(self.lines.len()).max(end + 1)
    }
}

/// A line without the user parts of URLs, and the width of the place that begins after `before` characters. What is hidden
/// before that place keeps its length, so that the place stays the same.
fn without_secrets(line: &str, before: usize, mut width: usize) -> (Cow<'_, str>, usize) {
    let ranges = mask_ranges(line);
    if ranges.is_empty() {
        return (line.into(), width);
    }
    let mut shown = line.to_owned();
    for range in ranges.into_iter().rev() {
        let (start, length) = (line[..range.start].chars().count(), line[range.clone()].chars().count());
        if start < before {
            shown.replace_range(range, &"*".repeat(length));
        } else {
            if start < before + width {
                width = (width + 3).saturating_sub(length);
            }
            shown.replace_range(range, "***");
        }
    }
    (shown.into(), width)
}

fn characters(bytes: &[u8]) -> usize {
    String::from_utf8_lossy(bytes).chars().count()
}
