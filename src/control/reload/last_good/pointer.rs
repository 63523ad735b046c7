//! The pointer: a small file beside the main file that names the directory of the last good copy, because a main file
//! that is empty or cut off does not.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::write_new;

/// The pointer of the main file at `main`: hidden, so that no glob matches it.
pub(super) fn path(main: &Path) -> Option<PathBuf> {
    let mut name = OsString::from(".");
    name.push(main.file_name()?);
    name.push(".state_dir");
    Some(std::path::absolute(main).ok()?.with_file_name(name))
}

/// The directory that the pointer names, if there is a pointer.
pub(super) fn read(main: &Path) -> Option<PathBuf> {
    let mut bytes = fs::read(path(main)?).ok()?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Some(PathBuf::from(OsString::from_vec(bytes))).filter(|directory| directory.is_absolute())
}

/// Makes the pointer name `directory`.
pub(super) fn write(main: &Path, directory: &Path) -> io::Result<()> {
    let directory = std::path::absolute(directory)?;
    let Some(path) = path(main).filter(|_| read(main).as_ref() != Some(&directory)) else { return Ok(()) };
    write_new(&path, &[directory.as_os_str().as_bytes(), b"\n"].concat())
}

/// Removes the pointer, if there is one.
pub(super) fn remove(main: &Path) {
    if let Some(path) = path(main) {
        // Usually, there is none. If it cannot be removed, it leads to a copy that was good once.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_written_replaced_and_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let main = directory.path().join("lb.toml");
        assert_eq!(read(&main), None);
        for place in ["/a", "/a", "/b/ü c"] {
            write(&main, Path::new(place)).expect("written");
            assert_eq!(read(&main), Some(place.into()));
        }
        write(&main, Path::new("state")).expect("written");
        assert_eq!(read(&main), std::path::absolute("state").ok(), "for a start in any directory");
        assert_eq!(read(&directory.path().join("other.toml")), None);
        for cut_off in ["", "\n", "stat"] {
            fs::write(path(&main).expect("a path"), cut_off).expect("written");
            assert_eq!(read(&main), None, "{cut_off:?}");
        }
        remove(&main);
        remove(&main);
        assert_eq!(directory.path().read_dir().expect("a directory").count(), 0);
    }
}
