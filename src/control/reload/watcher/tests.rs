//! Pure parts by table, the rest with real files and events.

use std::fs;
use std::future::Future;
use std::os::unix::fs::symlink;

use notify::event::{CreateKind, DataChange, Flag, MetadataKind, RemoveKind};

use super::*;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

/// Fails rather than hangs if no event arrives.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("a wake-up")
}

#[test]
fn every_event_but_those_of_reading_wakes() {
    let access = |kind| EventKind::Access(kind);
    let renamed = |mode| EventKind::Modify(ModifyKind::Name(mode));
    let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    for (kind, paths, expected) in [
        (access(AccessKind::Open(AccessMode::Any)), vec!["/d/lb.toml"], None),
        (access(AccessKind::Close(AccessMode::Read)), vec!["/d/lb.toml"], None),
        (access(AccessKind::Close(AccessMode::Write)), vec!["/d/lb.toml"], Some(Wake::Other)),
        (renamed(RenameMode::To), vec!["/d/lb.toml"], Some(Wake::Moved)),
        (renamed(RenameMode::To), vec!["/d/..data"], Some(Wake::Moved)),
        (renamed(RenameMode::To), vec!["/d/other"], Some(Wake::Other)),
        (renamed(RenameMode::From), vec!["/d/lb.toml"], Some(Wake::Other)),
        (renamed(RenameMode::Both), vec!["/d/4913", "/d/lb.toml"], Some(Wake::Moved)),
        (renamed(RenameMode::Both), vec!["/d/lb.toml", "/d/lb.toml~"], Some(Wake::Other)),
        (data, vec!["/d/lb.toml"], Some(Wake::Other)),
        (EventKind::Create(CreateKind::File), vec!["/d/lb.toml"], Some(Wake::Other)),
        (EventKind::Create(CreateKind::Folder), vec!["/d/conf.d"], Some(Wake::Other)),
        (EventKind::Remove(RemoveKind::File), vec!["/d/lb.toml"], Some(Wake::Other)),
        (EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), vec!["/d/lb.toml"], Some(Wake::Other)),
        (EventKind::Any, vec![], Some(Wake::Other)),
    ] {
        let events = FileEvents::default();
        events.set_entries(BTreeSet::from([PathBuf::from("/d/lb.toml"), PathBuf::from("/d/..data")]));
        let event = paths.iter().fold(Event::new(kind), |event, path| event.add_path(path.into()));
        events.handle(&Ok(event));
        assert_eq!(events.state.lock().pending, expected, "{kind:?} {paths:?}");
    }
    for event in [Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)), Err(notify::Error::generic("queue"))] {
        let events = FileEvents::default();
        events.handle(&event);
        assert_eq!(events.state.lock().pending, Some(Wake::Other));
    }
}

#[test]
fn the_end_of_an_earlier_file_of_that_name_is_no_event_of_the_new_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lb.toml");
    let event = Event::new(EventKind::Remove(RemoveKind::File)).add_path(path.clone());
    assert_eq!(file_event(&event), Some((path.as_path(), FileEvent::Gone)));
    fs::write(&path, "new").expect("a file");
    assert_eq!(file_event(&event), None);
}

/// A directory in which `a/lb.toml` is watched.
struct WatchedDirectory {
    directory: tempfile::TempDir,
    watcher: FileWatcher,
}

impl WatchedDirectory {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { directory, watcher: FileWatcher::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().expect("its name").join(name)
    }

    /// Sets the watches until nothing changes any more, as the reader does after each wake-up.
    async fn calm(&mut self) {
        for _ in 0..100 {
            let mut trail = Trail::default();
            trail.follow(&self.path("a/lb.toml"));
            self.watcher.rewatch(&trail);
            assert_eq!(self.watcher.problems(), [] as [String; 0]);
            let quiet = Duration::from_millis(30);
            if tokio::time::timeout(quiet, self.watcher.wake()).await.is_err() {
                return;
            }
        }
        panic!("wake-ups never end");
    }

    /// Waits for a wake-up with or without a file that was moved into place.
    async fn expect(&self, moved: bool) {
        soon(async { while (self.watcher.wake().await == Wake::Moved) != moved {} }).await;
    }
}

#[test]
fn every_way_to_change_a_file_wakes() {
    block_on(async {
        let mut watched = WatchedDirectory::new();
        let file = watched.path("a/lb.toml");
        watched.calm().await;
        fs::create_dir(watched.path("a")).expect("a directory appears");
        watched.expect(false).await;
        watched.calm().await;
        fs::write(&file, "1").expect("the file appears");
        watched.expect(false).await;
        watched.calm().await;
        fs::read(&file).expect("reading causes no wake-up");
        watched.calm().await;
        fs::write(&file, "2").expect("written in place");
        watched.expect(false).await;
        watched.calm().await;
        fs::write(watched.path("a/new"), "3").expect("written beside it");
        watched.calm().await;
        fs::rename(watched.path("a/new"), &file).expect("moved over it");
        watched.expect(true).await;
        watched.calm().await;
        fs::remove_dir_all(watched.path("a")).expect("the directory goes");
        watched.expect(false).await;
        watched.calm().await;
        fs::create_dir(watched.path("b")).expect("another directory");
        fs::write(watched.path("b/lb.toml"), "4").expect("with a file");
        watched.calm().await;
        symlink("b", watched.path("a")).expect("linked into place");
        watched.expect(false).await;
        watched.calm().await;
        fs::write(watched.path("b/lb.toml"), "5").expect("written behind the link");
        watched.expect(false).await;
        watched.calm().await;
        fs::create_dir(watched.path("c")).expect("a third directory");
        fs::write(watched.path("c/lb.toml"), "6").expect("with a file");
        symlink("c", watched.path("a.new")).expect("a link beside");
        watched.calm().await;
        fs::rename(watched.path("a.new"), watched.path("a")).expect("the link is swapped");
        watched.expect(true).await;
    });
}

#[test]
fn a_directory_that_is_created_again_is_watched_again() {
    block_on(async {
        let mut watched = WatchedDirectory::new();
        fs::create_dir(watched.path("a")).expect("directory");
        watched.calm().await;
        for text in ["1", "2", "3"] {
            fs::remove_dir_all(watched.path("a")).expect("gone");
            fs::create_dir(watched.path("a")).expect("back, perhaps with the same inode");
            watched.expect(false).await;
            watched.calm().await;
            fs::write(watched.path("a/lb.toml"), text).expect("write");
            watched.expect(false).await;
            watched.calm().await;
        }
    });
}

#[test]
fn after_dropped_events_every_watch_is_set_again() {
    block_on(async {
        let mut watched = WatchedDirectory::new();
        fs::create_dir(watched.path("a")).expect("a directory");
        fs::write(watched.path("a/lb.toml"), "1").expect("a file");
        watched.calm().await;
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        watched.watcher.events.handle(&Ok(lost));
        assert_eq!(watched.watcher.overflows(), 1);
        watched.expect(false).await;
        // A file that was removed meanwhile may be back with the same inode.
        for (path, _) in watched.watcher.watched.clone() {
            watched.watcher.watcher.as_mut().expect("events").unwatch(&path).expect("a watch");
        }
        watched.calm().await;
        fs::write(watched.path("a/lb.toml"), "2").expect("written in place");
        watched.expect(false).await;
    });
}
