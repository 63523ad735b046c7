//! Configurations: an accepted one is consistent, a rejected one has problems with places, and nothing panics.
#![no_main]

use lb::config::file::parse;
use lb::config::source::SourceFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = SourceFile::new("lb.toml", bytes);
    match parse(&[file], &|name| (name == "SET").then(|| "value".to_owned())) {
        Ok(config) => {
            assert!(!config.listeners.is_empty() && !config.routes.is_empty());
            assert!(config.routes.iter().all(|route| config.pools[route.pool.index()].name == route.pool.name()));
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(problem.line == 0 || problem.column > 0);
                let _ = (problem.to_text(true), problem.to_github(), problem.to_string());
            }
        }
    }
});
