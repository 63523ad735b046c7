//! Random edits of random files, in every layout that people write: they mean what they say, touch nothing else, and
//! undoing one restores the bytes.

use std::fmt::Write as _;

use fastrand::Rng;

use super::*;
use crate::config::Config;
use crate::config::diff::diff;

const FILES: u64 = 200;
const EDITS: usize = 12;

/// Makes files, and knows which comments belong to which server.
struct Writer {
    rng: Rng,
    comments: usize,
    /// Each server with its pool, and the comments that go with it.
    servers: Vec<(String, String, Vec<String>)>,
}

impl Writer {
    fn chance(&mut self) -> bool {
        self.rng.bool()
    }

    fn comment(&mut self) -> String {
        self.comments += 1;
        let what = self.rng.choice(["who", "weight = 2", "\"", "} ]", "ü, [x", ""]).unwrap();
        format!("#{}{what} <{}>", if self.chance() { " " } else { "" }, self.comments)
    }

    fn comments(&mut self, margin: &str) -> Vec<String> {
        (0..self.rng.usize(0..3) * usize::from(self.chance()))
            .map(|_| format!("{margin}{}\n", self.comment()))
            .collect()
    }

    /// A comment at the end of a line, perhaps.
    fn tail(&mut self) -> String {
        if self.rng.u8(0..3) > 0 {
            return String::new();
        }
        let comment = self.comment();
        format!("{}{comment}", self.rng.choice(["", " ", "\t  "]).unwrap())
    }

    /// Keys and values of a new server.
    fn keys(&mut self, pool: &str) -> Vec<String> {
        let name = format!("s{}", self.servers.len());
        let equals = *self.rng.choice([" = ", "=", "  =\t"].iter()).unwrap();
        let quote = *self.rng.choice(["\"", "'"].iter()).unwrap();
        let mut keys = vec![format!("name{equals}{quote}{name}{quote}"), format!("address{equals}\"{name}:80\"")];
        if self.chance() {
            keys.push(format!("weight{equals}{}", self.rng.u32(1..1000)));
        }
        if self.chance() {
            keys.push(format!("\"enabled\"{equals}{}", self.rng.u8(0..4) > 0));
        }
        self.rng.shuffle(&mut keys);
        self.servers.push((pool.to_owned(), name, Vec::new()));
        keys
    }

    /// A table of its own.
    fn table(&mut self, pool: &str) -> String {
        let margin = *self.rng.choice(["", "", "  ", "\t"].iter()).unwrap();
        let header = match pool {
            DEFAULT_POOL => "[[server]]".to_owned(),
            pool => format!("[[ pool.\"{pool}\".server]]"),
        };
        let before = self.comments(margin).concat();
        let mut text = format!("{before}{margin}{header}{}\n", self.tail());
        for key in self.keys(pool) {
            text += &self.comments(margin).concat();
            let _ = writeln!(text, "{margin}{key}{}", self.tail());
        }
        if self.rng.u8(0..4) == 0 {
            text += &self.comments("").concat();
            text += "\n";
        }
        self.owns(&text);
        text
    }

    /// The last server has all comments of this text.
    fn owns(&mut self, text: &str) {
        let ids = text.split('<').skip(1).filter_map(|rest| rest.split('>').next());
        let ids: Vec<String> = ids.map(|id| format!("<{id}>")).collect();
        self.servers.last_mut().unwrap().2.extend(ids);
    }

    /// An array with several, or none.
    fn array(&mut self, pool: &str) -> String {
        let lines = self.chance();
        let trailing = self.chance();
        let count = self.rng.usize(0..4);
        let mut text = "server = [".to_owned();
        if lines {
            let _ = writeln!(text, "{}", self.tail());
        }
        for number in 0..count {
            let (open, close) = if self.chance() { ("{ ", " }") } else { ("{", "}") };
            let element = format!("{open}{}{close}", self.keys(pool).join(", "));
            let comma = if trailing || number + 1 < count { "," } else { "" };
            if lines {
                let own = format!("{}  {element}{comma}{}\n", self.comments("  ").concat(), self.tail());
                self.owns(&own);
                text += &own;
            } else {
                text += &format!("{element}{comma}{}", if number + 1 < count { " " } else { "" });
            }
        }
        format!("{text}]{}\n", self.tail())
    }

    fn files(&mut self) -> Vec<SourceFile> {
        let pools = ["default", "api", "b.c"];
        // A pool is either an array in the main file, or tables in any.
        let arrays: Vec<bool> = pools.iter().map(|_| self.rng.u8(0..3) == 0).collect();
        let mut files = Vec::new();
        for file in 0..1 + self.rng.usize(0..2) {
            let mut top = format!("{}\n", self.comments("").concat());
            let mut tables = Vec::new();
            if file == 0 {
                top += "include = []\n";
                if arrays[0] {
                    top += &self.array(DEFAULT_POOL);
                }
                tables.push("[reload]\nallow_empty = true\n".to_owned());
                tables.push("[[listener]]\naddress = \"127.0.0.1:80\"\n".to_owned());
                tables.push(format!("[timeouts] {}\n", self.comment()));
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
            // Loose comments have air around them.
            for _ in 0..self.rng.usize(0..3) {
                tables.push(format!("\n{}\n\n", self.comment()));
            }
            self.rng.shuffle(&mut tables);
            let mut text = top;
            for table in tables {
                text += ["", "\n", "\n", "\n \n"][self.rng.usize(0..4)];
                text += &table;
            }
            if self.chance() {
                text = text.trim_end().to_owned();
            }
            if self.rng.u8(0..3) == 0 {
                text = text.replace('\n', "\r\n");
            }
            files.push(SourceFile::new(format!("{file}.toml"), text));
        }
        files
    }

    fn edit(&mut self) -> Edit {
        let server = match self.servers.is_empty() {
            true => ("default".to_owned(), "s0".to_owned(), Vec::new()),
            false => self.servers[self.rng.usize(..self.servers.len())].clone(),
        };
        let (pool, server) = (Some(server.0), server.1);
        let what = match self.rng.u8(0..5) {
            0 | 1 => {
                let new = New {
                    address: "new:1".to_owned(),
                    weight: self.chance().then(|| self.rng.u32(1..1000)),
                    enabled: self.chance(),
                };
                let pool = Some((*self.rng.choice(["default", "api", "b.c", "quite-new"].iter()).unwrap()).to_owned());
                return Edit { server: "new".to_owned(), pool, what: What::Add(new) };
            }
            2 => What::Remove,
            3 => What::Enable(self.chance()),
            _ => What::Weight(self.rng.u32(1..1000)),
        };
        Edit { server, pool, what }
    }
}

fn config(files: &[SourceFile]) -> Config {
    parse(files, &no_env).unwrap_or_else(|problems| {
        let texts: Vec<_> = files.iter().map(|file| String::from_utf8_lossy(&file.bytes)).collect();
        panic!("{}\n{}", problems[0], texts.join("\n=====\n"))
    })
}

fn with(files: &[SourceFile], file: usize, bytes: Vec<u8>) -> Vec<SourceFile> {
    let mut files = files.to_vec();
    files[file] = SourceFile::new(files[file].path.clone(), bytes);
    files
}

/// The files after an edit that is no idle one.
fn after(files: &[SourceFile], wanted: &Edit) -> Option<Vec<SourceFile>> {
    match edit(files, &no_env, wanted).unwrap() {
        EditOutcome::Text { file, bytes } => Some(with(files, file, bytes)),
        EditOutcome::Same(_) => None,
    }
}

fn text(files: &[SourceFile]) -> String {
    files.iter().map(|file| String::from_utf8(file.bytes.to_vec()).unwrap()).collect::<Vec<_>>().join("\n=====\n")
}

/// The edit that undoes another one, where that can be done byte for byte.
fn undo(wanted: &Edit, before: &Config, files: &[SourceFile]) -> Option<Edit> {
    let places = places(files, &no_env).unwrap();
    let is = |server: &&ServerPlace| server.name == wanted.server && Some(&server.pool) == wanted.pool.as_ref();
    let place = places.servers.iter().find(is);
    let server =
        before.pool(wanted.pool.as_ref()?).and_then(|pool| pool.servers.iter().find(|s| s.name == wanted.server));
    let what = match wanted.what {
        What::Add(_) => What::Remove,
        What::Remove => return None,
        What::Enable(enabled) => What::Enable(place?.key("enabled").map(|_| !enabled)?),
        What::Weight(_) => What::Weight(place?.key("weight").map(|_| server.unwrap().weight)?),
    };
    Some(Edit { what, ..wanted.clone() })
}

#[test]
fn random_edits_change_what_they_should_and_can_be_undone() {
    let (mut made, mut undone) = (0, 0);
    for seed in 0..FILES {
        let mut writer = Writer { rng: Rng::with_seed(seed), comments: 0, servers: Vec::new() };
        let files = writer.files();
        let before = config(&files);
        let all: Vec<String> = (1..=writer.comments).map(|id| format!("<{id}>")).collect();
        for _ in 0..EDITS {
            let wanted = writer.edit();
            if writer.servers.is_empty() && !matches!(wanted.what, What::Add(_)) {
                continue;
            }
            let Some(changed) = after(&files, &wanted) else { continue };
            made += 1;
            let shown = || format!("seed {seed}, {wanted:?}\n{}\n>>>>>\n{}", text(&files), text(&changed));

            // It means what it says, and nothing else.
            let changes: Vec<String> = diff(&before, &config(&changed)).iter().map(ToString::to_string).collect();
            let about = format!("server {}/{}: ", wanted.pool.as_ref().unwrap(), wanted.server);
            let servers: Vec<&String> = changes.iter().filter(|change| !change.starts_with("pool ")).collect();
            assert!(servers.len() == 1 && servers[0].starts_with(&about), "{changes:?} {}", shown());

            // No comment is lost but those of a server that goes, and lines end as they did.
            let gone = match wanted.what {
                What::Remove => {
                    writer.servers.iter().find(|s| Some(&s.0) == wanted.pool.as_ref() && s.1 == wanted.server)
                }
                _ => None,
            };
            for comment in &all {
                let kept = text(&changed).contains(comment);
                let goes = gone.is_some_and(|server| server.2.contains(comment));
                assert!(kept || goes, "{comment} is lost: {}", shown());
            }
            for (old, new) in files.iter().zip(&changed) {
                let kinds = |file: &SourceFile| {
                    let text = String::from_utf8(file.bytes.to_vec()).unwrap();
                    [text.contains("\r\n"), text.replace("\r\n", "").contains('\n')]
                };
                let (was, is) = (kinds(old), kinds(new));
                assert!(was == [false; 2] || is[0] <= was[0] && is[1] <= was[1], "{}", shown());
            }

            // And back.
            if let Some(undo) = undo(&wanted, &before, &files) {
                let Some(restored) = after(&changed, &undo) else { panic!("{undo:?} {}", shown()) };
                assert!(restored == files, "{}\n<<<<<\n{}", shown(), text(&restored));
                undone += 1;
            }
        }
    }
    assert!(made > 1200 && undone > 500, "only {made} and {undone}");
}
