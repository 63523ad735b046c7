//! Random edits of random files, in every layout that people write: an edit changes only what it says, leaves every
//! other byte alone, and undoing it restores the file.

use std::fmt::Write as _;

use fastrand::Rng;

use super::*;
use crate::config::Config;
use crate::config::diff::diff;

const FILES: u64 = 200;
const EDITS: usize = 12;

/// Top-level settings: interleaved dotted keys of two tables, each spelled differently.
const SETTINGS: [&str; 5] = [
    "timeouts.connect = \"1s\"",
    "limits.headers=50",
    "timeouts . idle =\t\"30s\"",
    "\"limits\".header_bytes = '16KiB'",
    "timeouts.'drain' = \"9s\"",
];

/// Writes files and remembers each server's part of them.
struct Writer {
    rng: Rng,
    /// The line ends of the file being written; each part of it uses one of them.
    line_ends: &'static [&'static str],
    comments: usize,
    servers: Vec<WrittenServer>,
}

#[derive(Clone)]
struct WrittenServer {
    pool: String,
    name: String,
    /// Its lines with the comments that touch it; in an array on one line, its inline table.
    text: String,
    /// Whether it is a `[[table]]`, not an inline one.
    is_table: bool,
}

impl Writer {
    fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), line_ends: &[], comments: 0, servers: Vec::new() }
    }

    fn chance(&mut self) -> bool {
        self.rng.bool()
    }

    fn one_of(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.rng.usize(..choices.len())]
    }

    /// Gives a part of the file its line ends.
    fn part(&mut self, text: &str) -> String {
        text.replace('\n', self.one_of(self.line_ends))
    }

    fn comment(&mut self) -> String {
        self.comments += 1;
        let text = self.one_of(&["who", "weight = 2", "\"", "} ]", "ü, [x", ""]);
        format!("#{}{text} <{}>", if self.chance() { " " } else { "" }, self.comments)
    }

    fn comments(&mut self, margin: &str) -> String {
        (0..self.rng.usize(0..3) * usize::from(self.chance()))
            .map(|_| format!("{margin}{}\n", self.comment()))
            .collect()
    }

    /// A comment at the end of a line, or nothing.
    fn tail(&mut self) -> String {
        if self.rng.u8(0..3) > 0 {
            return String::new();
        }
        let comment = self.comment();
        format!("{}{comment}", self.one_of(&["", " ", "\t  "]))
    }

    /// The keys and values of a new server.
    fn keys(&mut self, name: &str) -> Vec<String> {
        let equals = self.one_of(&[" = ", "=", "  =\t"]);
        let quote = self.one_of(&["\"", "'"]);
        let mut keys = vec![format!("name{equals}{quote}{name}{quote}"), format!("address{equals}\"{name}:80\"")];
        if self.chance() {
            keys.push(format!("weight{equals}{}", self.rng.u32(1..1000)));
        }
        if self.chance() {
            keys.push(format!("\"enabled\"{equals}{}", self.rng.u8(0..4) > 0));
        }
        self.rng.shuffle(&mut keys);
        keys
    }

    fn table(&mut self, pool: &str) -> String {
        let margin = self.one_of(&["", "", "  ", "\t"]);
        let header = match pool {
            DEFAULT_POOL => self.one_of(&["[[server]]", "[[ server ]]", "[[\"server\"]]"]).to_owned(),
            pool => self
                .one_of(&["[[pool.\"{}\".server]]", "[[ pool.\"{}\".server]]", "[[pool . '{}' . \"server\" ]]"])
                .replace("{}", pool),
        };
        let name = format!("s{}", self.servers.len());
        let before = self.comments(margin);
        let mut text = format!("{before}{margin}{header}{}\n", self.tail());
        for key in self.keys(&name) {
            text += &self.comments(margin);
            let _ = writeln!(text, "{margin}{key}{}", self.tail());
        }
        if self.rng.u8(0..4) == 0 {
            text += &self.comments("");
            text += "\n";
        }
        let text = self.part(&text);
        self.servers.push(WrittenServer { pool: pool.to_owned(), name, text: text.clone(), is_table: true });
        text
    }

    fn array(&mut self, pool: &str) -> String {
        let newline = self.one_of(self.line_ends);
        let on_lines = self.chance();
        let trailing_comma = self.chance();
        let count = self.rng.usize(0..4);
        let mut text = "server = [".to_owned();
        if on_lines {
            let _ = writeln!(text, "{}", self.tail());
        }
        for number in 0..count {
            let name = format!("s{}", self.servers.len());
            let is_last = number + 1 == count;
            let comma = if trailing_comma || !is_last { "," } else { "" };
            let (open, between, close) = match self.rng.u8(0..if on_lines { 3 } else { 2 }) {
                0 => ("{ ", ", ", " }"),
                1 => ("{", ", ", "}"),
                _ => ("{\n    ", ",\n    ", "\n  }"),
            };
            let element = format!("{open}{}{close}", self.keys(&name).join(between));
            let (part, rest) = match on_lines {
                true => (format!("{}  {element}{comma}{}\n", self.comments("  "), self.tail()), String::new()),
                false => (element, format!("{comma}{}", if is_last { "" } else { " " })),
            };
            text += &part;
            text += &rest;
            let text = part.replace('\n', newline);
            self.servers.push(WrittenServer { pool: pool.to_owned(), name, text, is_table: false });
        }
        format!("{text}]{}\n", self.tail()).replace('\n', newline)
    }

    fn settings(&mut self) -> String {
        let mut settings = SETTINGS;
        self.rng.shuffle(&mut settings);
        let count = self.rng.usize(..=settings.len());
        let mut text = String::new();
        for setting in &settings[..count] {
            text += &self.comments("");
            let _ = writeln!(text, "{setting}{}", self.tail());
        }
        self.part(&text)
    }

    fn files(&mut self) -> Vec<SourceFile> {
        let pools = ["default", "api", "b.c"];
        // A pool is either an array in the main file, or tables in any.
        let arrays: Vec<bool> = pools.iter().map(|_| self.rng.u8(0..3) == 0).collect();
        let mut files = Vec::new();
        for file in 0..1 + self.rng.usize(0..2) {
            self.line_ends = [&["\n"][..], &["\r\n"], &["\n", "\r\n"]][self.rng.usize(0..3)];
            let mut top = format!("{}\n", self.comments(""));
            let mut tables = Vec::new();
            if file == 0 {
                top += "include = []\n";
                top += &self.settings();
                if arrays[0] {
                    top += &self.array(DEFAULT_POOL);
                }
                tables.push("[reload]\nallow_empty = true\n".to_owned());
                tables.push("[[listener]]\naddress = \"127.0.0.1:80\"\n".to_owned());
                tables.push(format!("[tracing] {}\n", self.comment()));
            }
            for (pool, array) in pools.iter().zip(&arrays) {
                match array {
                    true if *pool == DEFAULT_POOL || file > 0 => {}
                    true => tables.push(format!("[pool.\"{pool}\"]\n{}", self.array(pool))),
                    false => {
                        for _ in 0..self.rng.usize(0..4) {
                            tables.push(self.table(pool));
                        }
                    }
                }
            }
            // Loose comments have blank lines around them.
            for _ in 0..self.rng.usize(0..3) {
                tables.push(format!("\n{}\n\n", self.comment()));
            }
            self.rng.shuffle(&mut tables);
            let mut text = top;
            for table in tables {
                text += self.one_of(&["", "\n", "\n", "\n \n"]);
                text += &table;
            }
            if self.chance() {
                text = text.trim_end().to_owned();
            }
            if self.line_ends == ["\r\n"] {
                text = text.replace("\r\n", "\n").replace('\n', "\r\n");
            }
            files.push(SourceFile::new(format!("{file}.toml"), text));
        }
        files
    }

    fn edit(&mut self) -> Edit {
        let (pool, server) = match self.servers.is_empty() {
            true => ("default".to_owned(), "s0".to_owned()),
            false => {
                let server = &self.servers[self.rng.usize(..self.servers.len())];
                (server.pool.clone(), server.name.clone())
            }
        };
        let action = match self.rng.u8(0..5) {
            0 | 1 => {
                let new = NewServer {
                    address: "new:1".to_owned(),
                    weight: self.chance().then(|| self.rng.u32(1..1000)),
                    enabled: self.chance(),
                };
                let pool = Some(self.one_of(&["default", "api", "b.c", "quite-new"]).to_owned());
                return Edit { server: "new".to_owned(), pool, action: EditAction::Add(new) };
            }
            2 => EditAction::Remove,
            3 => EditAction::SetEnabled(self.chance()),
            _ => EditAction::SetWeight(self.rng.u32(1..1000)),
        };
        Edit { server, pool: Some(pool), action }
    }

    fn server(&self, wanted: &Edit) -> Option<&WrittenServer> {
        self.servers.iter().find(|server| Some(&server.pool) == wanted.pool.as_ref() && server.name == wanted.server)
    }
}

fn config(files: &[SourceFile]) -> Config {
    parse(files, &no_env).unwrap_or_else(|problems| panic!("{}\n{}", problems[0], text(files)))
}

fn text_of_file(file: &SourceFile) -> &str {
    std::str::from_utf8(&file.bytes).unwrap()
}

fn text(files: &[SourceFile]) -> String {
    files.iter().map(text_of_file).collect::<Vec<_>>().join("\n=====\n")
}

/// The files after an edit, if it changes them.
fn after(files: &[SourceFile], wanted: &Edit) -> Option<Vec<SourceFile>> {
    match edit(files, &no_env, wanted).unwrap() {
        EditOutcome::Changed { file, bytes } => {
            let mut files = files.to_vec();
            files[file] = SourceFile::new(files[file].path.clone(), bytes);
            Some(files)
        }
        EditOutcome::Unchanged(_) => None,
    }
}

/// The edit that undoes another one, where that can be done byte for byte.
fn undo(wanted: &Edit, before: &Config, files: &[SourceFile]) -> Option<Edit> {
    let places = places(files, &no_env).unwrap();
    let is = |server: &&ServerPlace| server.name == wanted.server && Some(&server.pool) == wanted.pool.as_ref();
    let place = places.servers.iter().find(is);
    let server =
        before.pool(wanted.pool.as_ref()?).and_then(|pool| pool.servers.iter().find(|s| s.name == wanted.server));
    let action = match wanted.action {
        EditAction::Add(_) => EditAction::Remove,
        EditAction::Remove => return None,
        EditAction::SetEnabled(enabled) => EditAction::SetEnabled(place?.key("enabled").map(|_| !enabled)?),
        EditAction::SetWeight(_) => EditAction::SetWeight(place?.key("weight").map(|_| server.unwrap().weight)?),
    };
    Some(Edit { action, ..wanted.clone() })
}

/// Whether an edit of `server` left everything else in the file alone. White space around a removed server may
/// change, and in an array commas too.
fn only_the_server_changed(before: &str, after: &str, wanted: &Edit, server: Option<&WrittenServer>) -> bool {
    let squeezed = |text: &str| text.replace([' ', '\t', '\r', '\n', ','], "");
    let is_insertion = |before: &str, after: &str| {
        let same = before.bytes().zip(after.bytes()).take_while(|(one, other)| one == other).count();
        after.as_bytes()[same..].ends_with(&before.as_bytes()[same..])
    };
    let Some(server) = server else {
        return match before.contains("server = [") {
            true => is_insertion(&squeezed(before), &squeezed(after)),
            false => is_insertion(before, after),
        };
    };
    // The file's last line may lack its end.
    let (above, below) = before.split_once(server.text.trim_end()).unwrap();
    match wanted.action {
        EditAction::SetEnabled(_) | EditAction::SetWeight(_) => after.starts_with(above) && after.ends_with(below),
        EditAction::Remove if server.is_table => {
            let (above, below) = (above.trim_end(), below.trim_start());
            let air = after.strip_prefix(above).and_then(|rest| rest.strip_suffix(below));
            air.is_some_and(|air| air.trim().is_empty())
        }
        EditAction::Remove => squeezed(after) == squeezed(above) + &squeezed(below),
        EditAction::Add(_) => false,
    }
}

#[test]
fn random_edits_change_what_they_should_and_can_be_undone() {
    let (mut made, mut undone) = (0, 0);
    for seed in 0..FILES {
        let mut writer = Writer::new(seed);
        let files = writer.files();
        let before = config(&files);
        for _ in 0..EDITS {
            let wanted = writer.edit();
            if writer.servers.is_empty() && !matches!(wanted.action, EditAction::Add(_)) {
                continue;
            }
            let Some(changed) = after(&files, &wanted) else { continue };
            made += 1;
            let shown = || format!("seed {seed}, {wanted:?}\n{}\n>>>>>\n{}", text(&files), text(&changed));

            let changes: Vec<String> = diff(&before, &config(&changed)).iter().map(ToString::to_string).collect();
            let about = format!("server {}/{}: ", wanted.pool.as_ref().unwrap(), wanted.server);
            let servers: Vec<&String> = changes.iter().filter(|change| !change.starts_with("pool ")).collect();
            assert!(servers.len() == 1 && servers[0].starts_with(&about), "{changes:?} {}", shown());

            for (old, new) in files.iter().zip(&changed) {
                let (old, new) = (text_of_file(old), text_of_file(new));
                if old != new {
                    assert!(only_the_server_changed(old, new, &wanted, writer.server(&wanted)), "{}", shown());
                }
                let ends = |text: &str| [text.contains("\r\n"), text.replace("\r\n", "").contains('\n')];
                let (was, is) = (ends(old), ends(new));
                assert!(was == [false; 2] || is[0] <= was[0] && is[1] <= was[1], "{}", shown());
            }

            if let Some(undo) = undo(&wanted, &before, &files) {
                let Some(restored) = after(&changed, &undo) else { panic!("{undo:?} {}", shown()) };
                assert!(restored == files, "{}\n<<<<<\n{}", shown(), text(&restored));
                undone += 1;
            }
        }
    }
    assert!(made > 1200 && undone > 500, "only {made} and {undone}");
}
