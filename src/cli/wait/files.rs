//! The contents of certificates and other files that a balancer must have in force to serve a configuration exactly.

use crate::cli::api::FileReply;
use crate::control::reload::source::Sources;

/// The files that a configuration refers to, as far as they can be read here.
#[derive(Debug, Clone, Default)]
pub(super) struct ExpectedFiles {
    /// The name and the hash of each.
    files: Vec<(String, String)>,
    /// The number of all files in `/api/config`, if it is known.
    total: Option<usize>,
}

impl ExpectedFiles {
    pub(super) fn of(sources: &Sources) -> Self {
        let (mut files, mut is_complete) = (Vec::new(), true);
        for read in &sources.referenced.read {
            if read.reference.may_be_missing || read.files.is_empty() {
                // The balancer itself writes them, at any time; or a directory has none, so that older ones may stay.
                is_complete = false;
                continue;
            }
            for (named, file) in read.reference.files.iter().zip(&read.files) {
                match file {
                    Ok(file) => files.push((named.shown.clone(), file.hash.clone())),
                    // The balancer may have it, or be able to read it.
                    Err(_) => is_complete = false,
                }
            }
        }
        let total = is_complete.then_some(sources.files.len() + files.len());
        Self { files, total }
    }

    /// The contents that a balancer with these files lacks, in words; `None` if it has all of them, and no others.
    pub(super) fn lacking(&self, in_force: &[FileReply]) -> Option<String> {
        let lacks = |(_, hash): &&(String, String)| !in_force.iter().any(|file| file.hash == *hash);
        let lacking: Vec<&str> = self.files.iter().filter(lacks).map(|(name, _)| name.as_str()).collect();
        match self.total {
            _ if !lacking.is_empty() => Some(format!("other contents of {}", lacking.join(", "))),
            Some(total) if total != in_force.len() => {
                Some("other certificates than those in the directories".to_owned())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_readable_content_must_be_in_force_and_no_other_if_all_are_readable() {
        let expected = |total| ExpectedFiles { files: vec![("a".to_owned(), "1".to_owned())], total };
        let cases = [
            (&["0", "1"][..], Some(2), None),
            (&["0", "2"], Some(2), Some("other contents of a")),
            (&["0", "1", "3"], Some(2), Some("other certificates than those in the directories")),
            (&["0", "1", "3"], None, None),
            (&["0"], None, Some("other contents of a")),
        ];
        for (hashes, total, lacking) in cases {
            let in_force: Vec<_> = hashes.iter().map(|hash| FileReply { hash: (*hash).to_owned() }).collect();
            assert_eq!(expected(total).lacking(&in_force).as_deref(), lacking, "{hashes:?}");
        }
    }
}
