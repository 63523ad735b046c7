//! The pure part by table, the rest with real files and events.

use std::cell::Cell;
use std::fs;
use std::future::Future;
use std::os::unix::fs::symlink;

use notify::event::{CreateKind, DataChange, Flag, MetadataKind, RemoveKind};

use super::*;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

/// Lets a test fail rather than hang when no event comes.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("a wake-up")
}

#[test]
fn only_what_reading_makes_is_not_heard() {
    let entries = BTreeSet::from([PathBuf::from("/d/lb.toml"), PathBuf::from("/d/..data")]);
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
        (data, vec!["/d/lb.toml"], Some(Wake::Written)),
        (data, vec!["/d/other"], Some(Wake::Other)),
        (EventKind::Create(CreateKind::File), vec!["/d/lb.toml"], Some(Wake::Written)),
        (EventKind::Remove(RemoveKind::File), vec!["/d/lb.toml"], Some(Wake::Other)),
        (EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), vec!["/d/lb.toml"], Some(Wake::Other)),
        (EventKind::Any, vec![], Some(Wake::Other)),
    ] {
        let event = paths.iter().fold(Event::new(kind), |event, path| event.add_path(path.into()));
        assert_eq!(Wake::of(&Ok(event), &entries), expected, "{kind:?} {paths:?}");
    }
    let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
    assert_eq!(Wake::of(&Ok(overflow), &entries), Some(Wake::Other));
    let error = notify::Error::generic("queue");
    assert_eq!(Wake::of(&Err(error), &entries), Some(Wake::Other));
}

#[test]
fn the_last_word_about_the_file_counts() {
    use Wake::{Moved, Other, Written};
    for (wakes, expected) in [
        (vec![Other], Other),
        (vec![Moved], Moved),
        (vec![Moved, Other], Moved),
        (vec![Other, Moved], Moved),
        (vec![Moved, Written], Written),
        (vec![Moved, Written, Other], Written),
        (vec![Written, Other, Moved, Other], Moved),
    ] {
        let wake = wakes.iter().fold(None, |known, wake| Some(wake.after(known)));
        assert_eq!(wake, Some(expected), "{wakes:?}");
    }
}

#[test]
fn settling_needs_two_equal_reads_apart() {
    let quiet = Duration::from_millis(20);
    let watch = FileWatcher::new();
    let count = Cell::new(0_u32);
    let changing = || {
        count.set(count.get() + 1);
        count.get().min(4)
    };
    let begin = Instant::now();
    assert_eq!(block_on(settle(&watch, Wake::Written, quiet, 0, changing, || ())), 4);
    assert!(begin.elapsed() >= quiet * 5 && count.get() >= 5);
    let told = Cell::new(0);
    let busy = || {
        count.set(count.get() + 1);
        count.get() * u32::from(told.get() == 0)
    };
    block_on(settle(&watch, Wake::Written, Duration::from_millis(1), 0, busy, || told.set(told.get() + 1)));
    assert_eq!(told.get(), 1);
}

#[test]
fn what_is_heard_to_be_written_is_not_quiet_even_if_each_look_finds_the_same() {
    let quiet = Duration::from_millis(20);
    let watch = FileWatcher::new();
    let reads = Cell::new(0);
    let empty_as_often_as_it_is_looked_at = || {
        reads.set(reads.get() + 1);
        if reads.get() < 5 {
            watch.bell.ring(Wake::Written);
        }
    };
    let begin = Instant::now();
    empty_as_often_as_it_is_looked_at();
    block_on(settle(&watch, Wake::Written, quiet, (), empty_as_often_as_it_is_looked_at, || ()));
    assert!(begin.elapsed() >= quiet * 5 && reads.get() >= 6, "{reads:?}");
}

#[test]
fn what_is_moved_into_place_needs_no_quiet_even_while_the_file_is_written() {
    let long = Duration::from_secs(3600);
    let watch = FileWatcher::new();
    let never = || panic!("it is read once");
    assert_eq!(block_on(settle(&watch, Wake::Moved, long, 1, never, || ())), 1);
    let reads = Cell::new(0);
    let moved_meanwhile = || {
        reads.set(reads.get() + 1);
        watch.bell.ring(if reads.get() == 2 { Wake::Moved } else { Wake::Other });
        reads.get()
    };
    assert_eq!(block_on(settle(&watch, Wake::Written, long, 0, moved_meanwhile, || ())), 3);
}

/// A directory, its watch, and the trail of `lb.toml` in it.
struct Scene {
    directory: tempfile::TempDir,
    watch: FileWatcher,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { directory, watch: FileWatcher::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().expect("its name").join(name)
    }

    /// Sets the watches until that changes nothing any more, as a reader does after each wake-up.
    async fn calm(&mut self) {
        for _ in 0..100 {
            let mut trail = Trail::default();
            trail.follow(&self.path("a/lb.toml"));
            self.watch.rewatch(&trail);
            assert_eq!(self.watch.problems(), [] as [String; 0]);
            let quiet = Duration::from_millis(30);
            if tokio::time::timeout(quiet, self.watch.wake()).await.is_err() {
                return;
            }
        }
        panic!("the watch never calms down");
    }

    /// Waits for a wake-up that says whether something was moved into place.
    async fn expect(&self, moved: bool) {
        soon(async { while (self.watch.wake().await == Wake::Moved) != moved {} }).await;
    }
}

#[test]
fn every_way_to_change_a_file_wakes() {
    block_on(async {
        let mut scene = Scene::new();
        let file = scene.path("a/lb.toml");
        scene.calm().await;
        fs::create_dir(scene.path("a")).expect("a directory appears");
        scene.expect(false).await;
        scene.calm().await;
        fs::write(&file, "1").expect("the file appears");
        scene.expect(false).await;
        scene.calm().await;
        fs::read(&file).expect("reading wakes nobody");
        scene.calm().await;
        fs::write(&file, "2").expect("written in place");
        scene.expect(false).await;
        scene.calm().await;
        fs::write(scene.path("a/new"), "3").expect("written beside it");
        scene.calm().await;
        fs::rename(scene.path("a/new"), &file).expect("moved over it");
        scene.expect(true).await;
        scene.calm().await;
        fs::remove_dir_all(scene.path("a")).expect("the directory goes");
        scene.expect(false).await;
        scene.calm().await;
        fs::create_dir(scene.path("b")).expect("another directory");
        fs::write(scene.path("b/lb.toml"), "4").expect("with a file");
        scene.calm().await;
        symlink("b", scene.path("a")).expect("linked into place");
        scene.expect(false).await;
        scene.calm().await;
        fs::write(scene.path("b/lb.toml"), "5").expect("written behind the link");
        scene.expect(false).await;
        scene.calm().await;
        fs::create_dir(scene.path("c")).expect("a third directory");
        fs::write(scene.path("c/lb.toml"), "6").expect("with a file");
        symlink("c", scene.path("a.new")).expect("a link beside");
        scene.calm().await;
        fs::rename(scene.path("a.new"), scene.path("a")).expect("the link is swapped");
        scene.expect(true).await;
    });
}

#[test]
fn a_directory_that_is_made_anew_is_watched_anew() {
    block_on(async {
        let mut scene = Scene::new();
        fs::create_dir(scene.path("a")).expect("directory");
        scene.calm().await;
        for text in ["1", "2", "3"] {
            fs::remove_dir_all(scene.path("a")).expect("gone");
            fs::create_dir(scene.path("a")).expect("back, perhaps with the same inode");
            scene.expect(false).await;
            scene.calm().await;
            fs::write(scene.path("a/lb.toml"), text).expect("write");
            scene.expect(false).await;
            scene.calm().await;
        }
    });
}

#[test]
fn after_lost_events_every_watch_is_set_anew() {
    block_on(async {
        let mut scene = Scene::new();
        fs::create_dir(scene.path("a")).expect("a directory");
        fs::write(scene.path("a/lb.toml"), "1").expect("a file");
        scene.calm().await;
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        scene.watch.bell.hear(&Ok(lost));
        assert_eq!(scene.watch.overflows(), 1);
        scene.expect(false).await;
        // What was removed in the meantime may be back under the number it had.
        for (path, _) in scene.watch.watched.clone() {
            scene.watch.watcher.as_mut().expect("events").unwatch(&path).expect("a watch");
        }
        scene.calm().await;
        fs::write(scene.path("a/lb.toml"), "2").expect("written in place");
        scene.expect(false).await;
    });
}
