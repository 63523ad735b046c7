//! Randomly mutated files: parsing terminates, and every problem has a valid place.

use std::fs;

use fastrand::Rng;
use lb::config::file::parse;
use lb::config::source::SourceFile;

const VALUES: [&str; 16] = [
    "1",
    "-1",
    "99999999999999999999",
    "1e999",
    "nan",
    "true",
    "\"\"",
    "\"x\"",
    "[]",
    "[[]]",
    "{}",
    "{ a = 1 }",
    "1979-05-27",
    "'''\n",
    "\"${X}\"",
    "\"\\u0000\u{1f980}\"",
];

fn mutate(text: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = text.to_vec();
    for _ in 0..=rng.usize(..3) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.usize(..bytes.len());
        match rng.usize(..6) {
            0 => bytes.truncate(at),
            1 => {
                let with = rng.usize(..bytes.len());
                bytes.swap(at, with);
            }
            2 => bytes[at] = u8::try_from(rng.usize(..256)).expect("a byte"),
            3 => drop(bytes.remove(at)),
            4 => {
                let end = (at + rng.usize(..200)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let value = VALUES[rng.usize(..VALUES.len())];
                let Some(equals) = bytes[at..].iter().position(|b| *b == b'=') else {
                    continue;
                };
                let start = at + equals + 1;
                let length = bytes[start..].iter().position(|b| *b == b'\n');
                let end = length.map_or(bytes.len(), |length| start + length);
                bytes.splice(start..end, value.bytes());
            }
        }
    }
    bytes
}

#[test]
fn every_problem_of_a_mutated_file_has_a_valid_place() {
    let seeds = ["everything", "routes", "weighted", "sticky", "blue-green"];
    let seeds = seeds.map(|name| fs::read(format!("examples/{name}.toml")).expect(name));
    let (mut rng, mut rejected) = (Rng::with_seed(1), 0);
    for round in 0..500 {
        let bytes = mutate(&seeds[round % seeds.len()], &mut rng);
        let lines = bytes.split(|b| *b == b'\n').count();
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let Err(problems) = parse(&[SourceFile::new("lb.toml", bytes)], &|_| None) else {
            continue;
        };
        rejected += 1;
        assert!(!problems.is_empty(), "{shown}");
        for problem in problems {
            assert!(problem.line <= lines, "{problem} of {lines}:\n{shown}");
            assert_eq!(problem.line == 0, problem.column == 0, "{problem}:\n{shown}");
            let last = problem.excerpt.chars().count() + 1;
            assert!(problem.column <= last, "{problem} of {last}:\n{shown}");
            assert!(problem.width >= 1 && !problem.message.is_empty(), "{problem}");
            assert!(problem.to_text(false).contains("lb.toml"));
        }
    }
    assert!(rejected > 200, "only {rejected} were rejected: the mutations are too mild");
}
