//! The file of a listening Unix socket: one that a dead process has left makes way, one that is in use never does.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{SocketMode, SocketPath};

/// How often, and after which pause, a lock that another process has is tried again. It is held for microseconds.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// The file of a listening socket. Dropping it removes the file, unless another one has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: SocketPath,
    id: FileId,
}

/// The device and the inode of a file. While a socket is open, no other file gets its inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId(u64, u64);

/// The thing at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A socket that nothing listens on.
    Dead,
}

impl SocketFile {
    /// Whether a socket can be created at `path`, as far as that can be told without doing it.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] if a process listens there, [`io::ErrorKind::AlreadyExists`] if the file is not a
    /// socket, or the system's error.
    pub(super) fn check(path: &SocketPath) -> io::Result<()> {
        let directory = directory(path.as_path());
        if !fs::metadata(directory)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        look(path.as_path()).map(drop)
    }

    /// Creates a socket at `path` with these permissions, which listens as soon as other processes can connect to it.
    ///
    /// # Errors
    /// As [`SocketFile::check`].
    pub(super) fn create(path: &SocketPath, mode: SocketMode, backlog: i32) -> io::Result<(UnixListener, Self)> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let address = SockAddr::unix(path.as_path())?;
        // Two processes that find the same dead socket must not both replace it.
        let _lock = lock(directory(path.as_path()))?;
        if look(path.as_path())? == Found::Dead {
            fs::remove_file(path.as_path())?;
        }
        socket.bind(&address)?;
        let file = Self { id: FileId::of(path.as_path())?, path: path.clone() };
        file.set_mode(mode)?;
        socket.listen(backlog)?;
        Ok((socket.into(), file))
    }

    /// Sets the permissions.
    ///
    /// # Errors
    /// The system's error.
    pub(super) fn set_mode(&self, mode: SocketMode) -> io::Result<()> {
        fs::set_permissions(self.path.as_path(), Permissions::from_mode(mode.0))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let path = self.path.as_path();
        let is_ours = || FileId::of(path).is_ok_and(|id| id == self.id);
        if !is_ours() {
            return;
        }
        let _lock = lock(directory(path));
        if is_ours()
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "the file of a closed socket cannot be removed");
        }
    }
}

impl FileId {
    fn of(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|file| Self(file.dev(), file.ino()))
    }
}

/// Finds out what is at a path, by connecting to it if it is a socket.
fn look(path: &Path) -> io::Result<Found> {
    let file = match fs::metadata(path) {
        Ok(file) => file,
        // A link that leads nowhere is a file too, and binding would fail.
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            return Ok(Found::Nothing);
        }
        Err(error) => return Err(error),
    };
    if !file.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is not a socket"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // If the accept queue is full, connecting would wait.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Found::Dead),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // It is accepted, the queue is full, or it is a socket of another type.
        Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Locks a directory against other processes that create sockets in it; `None` if it cannot be read, which is no reason not
/// to create a file there.
fn lock(directory: &Path) -> io::Result<Option<File>> {
    let Ok(directory) = File::open(directory) else { return Ok(None) };
    for _ in 0..LOCK_TRIES {
        match directory.try_lock() {
            Ok(()) => return Ok(Some(directory)),
            Err(TryLockError::WouldBlock) => sleep(LOCK_PAUSE),
            // Not every file system has locks.
            Err(TryLockError::Error(_)) => return Ok(None),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process keeps the directory locked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result at `path`: what a new socket finds, or why there is none.
    fn create(path: &Path) -> Result<(UnixListener, SocketFile), String> {
        let path = SocketPath::new(path);
        SocketFile::check(&path).map_err(|error| error.to_string())?;
        SocketFile::create(&path, SocketMode(0o600), 8).map_err(|error| error.to_string())
    }

    #[test]
    fn a_dead_socket_is_replaced_and_anything_else_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.sock");
        let (first, file) = create(&path).expect("nothing is there");
        assert_eq!(fs::metadata(&path).expect("the file").mode() & 0o777, 0o600);
        assert_eq!(create(&path).expect_err("in use"), io::Error::from(io::ErrorKind::AddrInUse).to_string());
        assert!(path.exists(), "the live socket's file is there");
        std::mem::forget(file);
        drop(first);
        assert!(path.exists(), "a dead process leaves its file");
        let (_second, file) = create(&path).expect("the first one is dead");
        drop(file);
        assert!(!path.exists(), "it is removed with its owner");
        fs::write(&path, "text").expect("written");
        assert_eq!(create(&path).expect_err("a file"), "the file is not a socket");
        assert_eq!(fs::read_to_string(&path).expect("unchanged"), "text");
        let missing = directory.path().join("missing").join("a.sock");
        assert!(create(&missing).expect_err("no directory").starts_with("No such file"));
        let dangling = directory.path().join("link.sock");
        std::os::unix::fs::symlink("nowhere", &dangling).expect("a link");
        assert!(create(&dangling).is_err());
    }

    #[test]
    fn a_file_that_has_taken_the_place_of_a_socket_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.sock");
        let (_socket, file) = create(&path).expect("nothing is there");
        fs::remove_file(&path).expect("removed by somebody");
        let (_other, other_file) = create(&path).expect("another one");
        drop(file);
        assert!(path.exists(), "the other one is still there");
        drop(other_file);
        assert!(!path.exists());
    }

    #[test]
    fn a_full_queue_and_another_type_are_in_use() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.sock");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        socket.bind(&SockAddr::unix(&path).expect("a path")).expect("bound");
        socket.listen(0).expect("listening");
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let client = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
                client.set_nonblocking(true).expect("a socket");
                // Fails once the queue is full.
                let _ = client.connect(&SockAddr::unix(&path).expect("a path"));
                client
            })
            .collect();
        let in_use = io::Error::from(io::ErrorKind::AddrInUse).to_string();
        assert_eq!(create(&path).expect_err("in use"), in_use);
        drop(clients);
        let datagrams = directory.path().join("b.sock");
        let _datagrams = std::os::unix::net::UnixDatagram::bind(&datagrams).expect("bound");
        assert_eq!(create(&datagrams).expect_err("in use"), in_use);
    }
}
