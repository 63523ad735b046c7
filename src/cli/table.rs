//! Text tables: columns as wide as their cells need, in colour on a terminal.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

#[derive(Debug)]
pub(super) struct TextTable {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    /// For numbers, so that their digits line up.
    Right,
}

#[derive(Debug)]
struct Row {
    cells: Vec<Cell>,
    /// A line below the row, for text too long for a column.
    below: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

/// The meaning of a cell, shown by its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
    Faint,
}

impl TextTable {
    /// A table without rows. It has a heading unless all columns have an empty name.
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column, and an optional line below it.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>, below: Option<String>) {
        self.rows.push(Row { cells: cells.into_iter().collect(), below });
    }

    /// The lines of the table, each indented and with its newline.
    pub(super) fn render(&self, indent: &str, colored: bool) -> String {
        let heading: Vec<Cell> = self.columns.iter().map(|(name, _)| Cell::from(*name).tone(Tone::Faint)).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.cells.get(column)).chain(heading.get(column));
            cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let has_heading = self.columns.iter().any(|(name, _)| !name.is_empty());
        let mut text = if has_heading { self.line(indent, &heading, &widths, colored) } else { String::new() };
        for row in &self.rows {
            text += &self.line(indent, &row.cells, &widths, colored);
            if let Some(below) = &row.below {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{indent}  {}", Cell::from(below.as_str()).tone(Tone::Faint).paint(0, colored));
            }
        }
        text
    }

    fn line(&self, indent: &str, cells: &[Cell], widths: &[usize], colored: bool) -> String {
        let mut line = indent.to_owned();
        for (column, ((cell, width), (_, align))) in cells.iter().zip(widths).zip(&self.columns).enumerate() {
            let padding = width.saturating_sub(cell.text.chars().count());
            let is_last = column + 1 == cells.len();
            let gap = if column == 0 { "" } else { "  " };
            let (before, after) = match align {
                Align::Right => (padding, 0),
                Align::Left => (0, if is_last { 0 } else { padding }),
            };
            let _ = write!(line, "{gap}{:before$}{}", "", cell.paint(after, colored));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

impl Cell {
    pub(super) fn tone(self, tone: Tone) -> Self {
        let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
        let style = match tone {
            Tone::Plain => Style::new(),
            Tone::Good => colour(AnsiColor::Green),
            Tone::Warning => colour(AnsiColor::Yellow),
            Tone::Bad => colour(AnsiColor::Red),
            Tone::Faint => Style::new().dimmed(),
        };
        Self { style, ..self }
    }

    /// The text, coloured if asked for, and `after` spaces, which are not.
    fn paint(&self, after: usize, colored: bool) -> String {
        let (style, text) = (self.style, &self.text);
        if colored { format!("{style}{text}{style:#}{:after$}", "") } else { format!("{text}{:after$}", "") }
    }
}

/// Returns `text` in the colour of `tone`, if colour is asked for.
pub(super) fn paint(text: &str, tone: Tone, colored: bool) -> String {
    Cell::from(text).tone(tone).paint(0, colored)
}

impl<T: ToString + ?Sized> From<&T> for Cell {
    fn from(value: &T) -> Self {
        Self { text: value.to_string(), style: Style::new() }
    }
}

/// Formats 0.1818 as `18.2%`. A small share is not rounded down to 0.
pub(super) fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.0005 { "<0.1%".to_owned() } else { format!("{:.1}%", share * 100.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TextTable {
        let mut table = TextTable::new(&[("NAME", Align::Left), ("SHARE", Align::Right), ("STATUS", Align::Left)]);
        table.row(["é".into(), "18.2%".into(), Cell::from("up").tone(Tone::Good)], None);
        table.row(["longer".into(), "0.0%".into(), "down".into()], Some("connection refused".to_owned()));
        table
    }

    #[test]
    fn columns_line_up() {
        let expected =
            [" NAME    SHARE  STATUS", " é       18.2%  up", " longer   0.0%  down", "   connection refused", ""];
        assert_eq!(table().render(" ", false), expected.join("\n"));
    }

    #[test]
    fn shares_have_one_decimal() {
        for (share, expected) in
            [(0.0, "0.0%"), (0.0001, "<0.1%"), (0.0005, "0.1%"), (2.0 / 11.0, "18.2%"), (1.0, "100.0%")]
        {
            assert_eq!(percent(share), expected);
        }
    }

    #[test]
    fn colours_do_not_shift_columns() {
        let colored = table().render("", true);
        assert!(colored.contains("\u{1b}[32mup\u{1b}[0m"), "{colored:?}");
        let mut plain = String::new();
        let mut rest = colored.as_str();
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            plain += before;
            rest = after.split_once('m').expect("the end of the escape sequence").1;
        }
        assert_eq!(plain + rest, table().render("", false));
    }
}
