//! Collects problems: turns places in the files into lines, columns and excerpts.

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::path::Path;

use memchr::memchr_iter;

use super::Place;
use crate::config::problem::{Fault, Problem};
use crate::config::source::SourceFile;

/// More problems than this are counted, not listed: nobody reads them, and each holds a line.
const MOST: usize = 1000;

/// Characters of a line that are worth showing.
const LONGEST_LINE: usize = 1000;

/// The files and what is wrong with them. Shared by all who read, hence the cells.
pub(super) struct Report<'a> {
    texts: Vec<Text<'a>>,
    /// Each with its file's index.
    found: RefCell<Vec<(usize, Layer, Problem)>>,
    /// Lines where an error of syntax spoils what the rest seems to mean: the error's own, and the
    /// table's that it is in. Other tables are not touched.
    spoilt: RefCell<Vec<(usize, RangeInclusive<usize>)>>,
    left_out: Cell<usize>,
}

/// What a problem is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    /// The text is not TOML there.
    Syntax,
    /// The TOML is not a configuration.
    Meaning,
}

struct Text<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    /// Where each line begins.
    lines: Vec<usize>,
}

impl<'a> Report<'a> {
    pub(super) fn new(files: &'a [SourceFile]) -> Self {
        Self {
            texts: files.iter().map(Text::new).collect(),
            found: RefCell::default(),
            spoilt: RefCell::default(),
            left_out: Cell::new(0),
        }
    }

    pub(super) fn bytes(&self, file: usize) -> &'a [u8] {
        self.texts[file].bytes
    }

    /// Records what is wrong at a place.
    pub(super) fn at(&self, place: Place, fault: Fault) {
        self.at_with(place, || fault);
    }

    /// Likewise where it costs something to find out what to say.
    pub(super) fn at_with(&self, place: Place, fault: impl FnOnce() -> Fault) {
        self.add(place.file, Layer::Meaning, || self.problem(place, fault()));
    }

    /// Records what is wrong with the text itself.
    pub(super) fn syntax(&self, place: Place, fault: Fault) {
        self.add(place.file, Layer::Syntax, || {
            let lines = self.texts[place.file].spoilt_by(place);
            self.spoilt.borrow_mut().push((place.file, lines));
            self.problem(place, fault)
        });
    }

    /// Records what is wrong with the configuration as a whole.
    pub(super) fn whole(&self, fault: Fault) {
        self.add(0, Layer::Meaning, || {
            let main = self.texts.first().map_or(Path::new(""), |text| text.path);
            Problem::of_file(main, fault)
        });
    }

    pub(super) fn has_syntax_errors(&self) -> bool {
        !self.spoilt.borrow().is_empty()
    }

    /// The problem at a place, not recorded.
    pub(super) fn problem(&self, place: Place, fault: Fault) -> Problem {
        let text = &self.texts[place.file];
        let line = text.line_of(place.start);
        let full = String::from_utf8_lossy(text.line(line));
        let before = characters(&text.bytes[text.lines[line]..place.start.min(text.bytes.len())]);
        let rest = full.chars().skip(before).count();
        let meant = characters(&text.bytes[place.start.min(place.end)..place.end]);
        Problem {
            file: text.path.into(),
            line: line + 1,
            column: before + 1,
            message: fault.message,
            hint: fault.hint,
            excerpt: if before < LONGEST_LINE { full.chars().take(LONGEST_LINE).collect() } else { String::new() },
            width: meant.min(rest).max(1),
        }
    }

    /// Where something else stands, for a reader who is at `here`.
    pub(super) fn location(&self, here: Place, there: Place) -> String {
        let text = &self.texts[there.file];
        let line = text.line_of(there.start) + 1;
        if here.file == there.file { format!("on line {line}") } else { format!("in {}:{line}", text.path.display()) }
    }

    /// All of them, in the order of the files, lines and columns.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        let spoilt = self.spoilt.into_inner();
        if !spoilt.is_empty() {
            let reliable =
                |file, line| line > 0 && !spoilt.iter().any(|(f, lines)| *f == file && lines.contains(&line));
            found.retain(|(file, layer, problem)| *layer == Layer::Syntax || reliable(*file, problem.line));
        }
        found.sort_by_key(|(file, _, problem)| (*file, problem.line, problem.column));
        let mut problems: Vec<Problem> = found.into_iter().map(|(_, _, problem)| problem).collect();
        problems.dedup();
        if let (more @ 1.., Some(last)) = (self.left_out.get(), problems.last()) {
            let fault = Fault::new(format!("and {more} more problems"));
            problems.push(Problem::of_file(last.file.clone(), fault));
        }
        problems
    }

    fn add(&self, file: usize, layer: Layer, problem: impl FnOnce() -> Problem) {
        if self.found.borrow().len() < MOST {
            let problem = problem();
            self.found.borrow_mut().push((file, layer, problem));
        } else {
            self.left_out.set(self.left_out.get() + 1);
        }
    }
}

impl<'a> Text<'a> {
    fn new(file: &'a SourceFile) -> Self {
        Self {
            path: &file.path,
            bytes: &file.bytes,
            lines: std::iter::once(0).chain(memchr_iter(b'\n', &file.bytes).map(|end| end + 1)).collect(),
        }
    }

    /// The line, from 0, that a byte is on.
    fn line_of(&self, byte: usize) -> usize {
        let byte = byte.min(self.bytes.len());
        self.lines.partition_point(|start| *start <= byte) - 1
    }

    /// A line's bytes without its end.
    fn line(&self, line: usize) -> &'a [u8] {
        let end = self.lines.get(line + 1).map_or(self.bytes.len(), |next| next - 1);
        let bytes = &self.bytes[self.lines[line]..end];
        bytes.strip_suffix(b"\r").unwrap_or(bytes)
    }

    /// The lines, from 1, of the table that an error is in, and of the error itself.
    fn spoilt_by(&self, place: Place) -> RangeInclusive<usize> {
        let header = |line: &usize| self.line(*line).trim_ascii_start().starts_with(b"[");
        let (start, end) = (self.line_of(place.start), self.line_of(place.end));
        let first = (0..=start).rev().find(header).unwrap_or(0);
        let next = (start + 1..self.lines.len()).find(header);
        first + 1..=next.unwrap_or(self.lines.len()).max(end + 1)
    }
}

fn characters(bytes: &[u8]) -> usize {
    String::from_utf8_lossy(bytes).chars().count()
}
