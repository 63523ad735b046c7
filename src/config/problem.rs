//! A problem in a configuration: its place, a message and a hint. Rendered for people, for programs and for CI.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::{Deserialize, Serialize};

use crate::config::mask;

/// An error in the configuration, with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub file: PathBuf,
    /// From 1; 0 if the problem concerns the whole file.
    pub line: usize,
    /// In characters, from 1; 0 if the problem concerns the whole file.
    pub column: usize,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The text of the line; empty if the problem concerns the whole file.
    #[serde(skip)]
    pub excerpt: String,
    /// How many characters to underline, starting at the column; at least 1.
    #[serde(skip, default = "min_width")]
    pub width: usize,
}

fn min_width() -> usize {
    1
}

/// A problem in the API's JSON.
#[derive(Debug, Serialize)]
pub struct ProblemJson<'a> {
    #[serde(flatten)]
    problem: &'a Problem,
    /// As `lb check` prints it for people.
    text: String,
}

impl Problem {
    #[must_use]
    pub fn to_json(&self) -> ProblemJson<'_> {
        ProblemJson { problem: self, text: self.to_text(false) }
    }

    /// A problem that concerns a whole file.
    pub fn of_file(file: impl Into<PathBuf>, reason: Reason) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            message: reason.message,
            hint: reason.hint,
            excerpt: String::new(),
            width: 1,
        }
    }

    /// Renders the problem for people: its line with the place underlined, and the hint below it.
    #[must_use]
    pub fn to_text(&self, colored: bool) -> String {
        let path = self.file.to_string_lossy();
        let title = Level::ERROR.primary_title(self.message.as_str());
        let mut group = Group::with_title(title);
        if self.excerpt.is_empty() {
            let mut origin = Origin::path(path);
            if self.line > 0 {
                origin = origin.line(self.line).char_column(self.column);
            }
            group = group.element(origin);
        } else {
            let byte = |character: usize| {
                let mut starts = self.excerpt.char_indices().map(|(at, _)| at);
                starts.nth(character).unwrap_or(self.excerpt.len())
            };
            let start = self.column.saturating_sub(1);
            let span = byte(start)..byte(start + self.width);
            let annotation = AnnotationKind::Primary.span(span);
            let snippet = Snippet::source(self.excerpt.as_str());
            group = group.element(snippet.line_start(self.line).path(path).annotation(annotation));
        }
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        let renderer = if colored { Renderer::styled() } else { Renderer::plain() };
        renderer.decor_style(DecorStyle::Ascii).render(&[group])
    }

    /// Renders the problem as a workflow command that GitHub shows beside the line.
    #[must_use]
    pub fn to_github(&self) -> String {
        let mut command = format!("::error file={}", github_property(&self.file.to_string_lossy()));
        if self.line > 0 {
            let end = (self.column + self.width).saturating_sub(1);
            // Writing to a string does not fail.
            let _ = write!(command, ",line={},col={},endColumn={end}", self.line, self.column);
        }
        let hint = self.hint.as_deref().map(|hint| format!("\n{hint}"));
        let text = format!("{}{}", self.message, hint.unwrap_or_default());
        let _ = write!(command, ",title=lb check::{}", github_data(&text));
        command
    }
}

/// A workflow command that GitHub shows beside a file. `level` is `error`, `warning` or `notice`.
#[must_use]
pub fn annotation(level: &str, file: &Path, title: &str, text: &str) -> String {
    annotation_at(level, file, 0, title, text)
}

/// Like [`annotation`], but beside a line of the file, counted from 1; 0 is the whole file.
#[must_use]
pub fn annotation_at(level: &str, file: &Path, line: usize, title: &str, text: &str) -> String {
    let (file, title) = (github_property(&file.to_string_lossy()), github_property(title));
    let line = if line > 0 { format!(",line={line}") } else { String::new() };
    format!("::{level} file={file}{line},title={title}::{}", github_data(text))
}

/// One line, for logs: `lb.toml:3:1: unknown key … (did you mean …?)`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Why a value or a file is invalid, and what to do about it. With a place it becomes a [`Problem`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub message: String,
    pub hint: Option<String>,
}

impl Reason {
    /// A reason without a hint. A message can quote anything from a file, so control characters are escaped, long texts
    /// truncated and the user parts of URLs hidden.
    pub fn new(message: impl AsRef<str>) -> Self {
        Self { message: presentable(message.as_ref()), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl AsRef<str>) -> Self {
        self.hint = Some(presentable(hint.as_ref()));
        self
    }
}

fn presentable(text: &str) -> String {
    const MAX_BYTES: usize = 400;
    let mut shown = String::with_capacity(text.len().min(MAX_BYTES));
    for c in mask(text).chars() {
        if shown.len() >= MAX_BYTES {
            shown.push('…');
            break;
        }
        if c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

fn github_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn github_property(text: &str) -> String {
    github_data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            file: "a,b:c.toml".into(),
            line: 12,
            column: 3,
            message: "100% wrong".to_owned(),
            hint: Some("did you mean `weight`?".to_owned()),
            excerpt: "é wieght = 1".to_owned(),
            width: 6,
        }
    }

    #[test]
    fn the_text_shows_the_line() {
        let expected = "\
error: 100% wrong
  --> a,b:c.toml:12:3
   |
12 | é wieght = 1
   |   ^^^^^^
   |
   = help: did you mean `weight`?";
        assert_eq!(problem().to_text(false), expected);
        assert!(problem().to_text(true).contains("\u{1b}["));
        assert_eq!(problem().to_string(), "a,b:c.toml:12:3: 100% wrong (did you mean `weight`?)");
    }

    #[test]
    fn a_problem_of_a_whole_file_has_no_line() {
        let whole = Problem::of_file("lb.toml", Reason::new("it is empty").hint("fill it"));
        assert_eq!(whole.to_string(), "lb.toml: it is empty (fill it)");
        let text = whole.to_text(false);
        assert!(text.contains("--> lb.toml\n"), "{text}");
        assert!(text.contains("help: fill it"), "{text}");
        assert_eq!(whole.to_github(), "::error file=lb.toml,title=lb check::it is empty%0Afill it");
    }

    #[test]
    fn github_commands_are_escaped() {
        assert_eq!(
            problem().to_github(),
            "::error file=a%2Cb%3Ac.toml,line=12,col=3,endColumn=8,title=lb check::100%25 wrong%0Adid you mean `weight`?"
        );
    }

    #[test]
    fn any_problem_can_be_rendered() {
        for (excerpt, column, width) in
            [("", 1, 1), ("x", 9, 9), ("\t\tx = 1", 3, 1), ("日本語 = 1", 2, 2), ("a\u{1b}[31mb", 2, 3), ("x", 0, 0)]
        {
            let problem = Problem { excerpt: excerpt.to_owned(), column, width, ..problem() };
            let text = problem.to_text(false);
            assert!(text.contains("100% wrong"), "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
            let _ = problem.to_github();
        }
    }

    #[test]
    fn reasons_contain_no_control_characters() {
        let reason = Reason::new("`a\nb\u{1b}`").hint("x".repeat(1000));
        assert_eq!(reason.message, "`a\\nb\\u{1b}`");
        assert!(reason.hint.is_some_and(|hint| hint.len() < 500));
    }
}
