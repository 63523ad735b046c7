//! Wake-ups of the reader, one at a time, without its thread.

use std::future::Future;

use super::*;

fn rules() -> ReloadRules {
    ReloadRules { quiet: Duration::from_millis(10), poll: Duration::from_secs(3600), ..ReloadRules::default() }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

/// Fails rather than hangs if the reader does not wake up.
async fn wakes(reader: &mut ConfigReader) -> ReadReason {
    tokio::time::timeout(Duration::from_secs(20), reader.wait()).await.expect("a wake-up")
}

/// A reader of a file that does not change.
fn reader(directory: &tempfile::TempDir) -> (ConfigReader, mpsc::Sender<ParsedConfig>, ReaderHandle) {
    let path = directory.path().join("lb.toml");
    std::fs::write(&path, "").expect("a file");
    let source = Source::new(path);
    let last = source.read(&env);
    ConfigReader::new(source, last, rules(), Arc::default())
}

#[test]
fn rules_that_arrive_between_the_warnings_and_the_wait_end_the_wait() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut reader, _sender, handle) = reader(&directory);
    block_on(async {
        reader.rewatch();
        assert_eq!(wakes(&mut reader).await, ReadReason::Event(Wake::Other), "new watches");
        reader.rewatch();
        handle.set_rules(ReloadRules { poll: Duration::ZERO, ..rules() });
        assert_eq!(wakes(&mut reader).await, ReadReason::Time, "new rules");
        assert_eq!(reader.rules, rules(), "until the warnings are written by the new ones");
        reader.rewatch();
        assert_eq!(reader.rules.poll, Duration::ZERO);
    });
}

#[test]
fn a_request_made_during_a_read_is_kept_until_the_next_wait() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut reader, _sender, handle) = reader(&directory);
    block_on(async {
        reader.rewatch();
        handle.read_now();
        handle.read_now();
        let mut requests = [wakes(&mut reader).await, wakes(&mut reader).await].map(|wake| wake == ReadReason::Request);
        requests.sort_unstable();
        assert_eq!(requests, [false, true], "the watches and one request, in any order");
        handle.read_now();
        assert_eq!(wakes(&mut reader).await, ReadReason::Request);
    });
}

#[test]
fn new_rules_apply_to_a_read_that_waits_for_files_to_be_complete() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut reader, _sender, handle) = reader(&directory);
    block_on(async {
        handle.set_rules(ReloadRules { quiet: Duration::from_secs(3600), ..rules() });
        reader.rewatch();
        std::fs::write(directory.path().join("lb.toml"), "# edited").expect("a file");
        let edited = async {
            // The read has begun by the old rules.
            tokio::task::yield_now().await;
            handle.set_rules(rules());
        };
        let read = tokio::time::timeout(Duration::from_secs(20), reader.complete_read(ReadReason::Time));
        let (read, ()) = tokio::join!(read, edited);
        let (sources, _) = read.expect("it ends by the new rules");
        assert_eq!(&*sources.files[0].bytes, b"# edited");
    });
}

#[test]
fn the_reader_hands_over_new_content_and_ends_with_its_handle() {
    let directory = tempfile::tempdir().expect("a directory");
    let (reader, sender, mut handle) = reader(&directory);
    let path = directory.path().join("lb.toml");
    let thread = std::thread::spawn(move || block_on(reader.run(sender)));
    block_on(async {
        std::fs::write(&path, "wieght = 1\n").expect("an edit");
        let edit =
            tokio::time::timeout(Duration::from_secs(20), handle.next()).await.expect("in time").expect("an edit");
        assert!(edit.loaded.result.is_err() && !edit.requested);
        handle.read_now();
        let read =
            tokio::time::timeout(Duration::from_secs(20), handle.next()).await.expect("in time").expect("a read");
        assert!(read.requested && read.loaded.sources == edit.loaded.sources);
    });
    drop(handle);
    thread.join().expect("it ends");
}
