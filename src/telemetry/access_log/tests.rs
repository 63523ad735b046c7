//! Destinations that are slow, stuck or full.

use std::time::UNIX_EPOCH;

use parking_lot::Mutex;

use super::output::QUEUE;
use super::*;
use crate::config::FilePath;

const SOON: Duration = Duration::from_secs(20);

/// An output that waits before each write for its result: how many bytes it may take, or an error.
struct SteppedOutput {
    written: Arc<Mutex<Vec<u8>>>,
    steps: Receiver<Step>,
}

type Step = io::Result<usize>;

impl Write for SteppedOutput {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        // Once the sender is dropped, everything is written.
        let taken = self.steps.recv().unwrap_or(Ok(usize::MAX))?.min(text.len());
        self.written.lock().extend_from_slice(&text[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn stepped() -> (SteppedOutput, mpsc::Sender<Step>, Arc<Mutex<Vec<u8>>>) {
    let (step, steps) = mpsc::channel();
    let written = Arc::default();
    (SteppedOutput { written: Arc::clone(&written), steps }, step, written)
}

fn text(written: &Mutex<Vec<u8>>) -> String {
    String::from_utf8(written.lock().clone()).expect("ASCII")
}

fn entry(path: &str) -> AccessLogEntry<'_> {
    AccessLogEntry { path, ..AccessLogEntry::example(UNIX_EPOCH) }
}

fn json() -> LogConfig {
    LogConfig { format: LogFormat::Json, ..LogConfig::default() }
}

/// The logged paths, in order.
fn paths(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"))
        .map(|line| line["path"].as_str().expect("a path").to_owned())
        .collect()
}

#[test]
fn all_lines_are_written_in_order_once_the_workers_have_ended() {
    let (out, step, written) = stepped();
    drop(step);
    let writer = AccessLogWriter::start(out).expect("a thread");
    let mut log = writer.worker();
    let expected: Vec<String> = (0..1_000).map(|i| format!("/{i}")).collect();
    for path in &expected {
        log.line(&json(), &entry(path));
    }
    drop(log);
    let losses = writer.losses();
    assert!(writer.finish(SOON));
    assert_eq!(paths(&text(&written)), expected);
    assert_eq!(losses.lines(), 0);
}

#[test]
fn a_stuck_output_costs_lines_but_no_time() {
    let (out, step, written) = stepped();
    let writer = AccessLogWriter::start(out).expect("a thread");
    let losses = writer.losses();
    let mut log = writer.worker();
    // One batch is stuck in the writer, QUEUE batches wait, and further ones are dropped.
    let mut sent = 0;
    while losses.lines() < 10 {
        assert!(sent < 2 * QUEUE, "nothing was dropped");
        log.line(&json(), &entry(&format!("/{sent}")));
        log.flush();
        sent += 1;
    }
    assert!(sent >= QUEUE + 10, "lines were dropped too early: after {sent}");
    // Once the output accepts data again, the queued lines are written in order.
    drop(step);
    drop(log);
    assert!(writer.finish(SOON));
    let written = paths(&text(&written));
    assert_eq!(written.len() as u64, sent as u64 - losses.lines());
    assert!(written.is_sorted_by_key(|path| path[1..].parse::<usize>().expect("a number")));
}

#[test]
fn waiting_for_a_stuck_output_ends_at_the_timeout() {
    let (out, step, _) = stepped();
    let writer = AccessLogWriter::start(out).expect("a thread");
    writer.worker().line(&LogConfig::default(), &entry("/"));
    assert!(!writer.finish(Duration::from_millis(20)));
    drop(step);
}

#[test]
fn an_error_loses_lines_but_tears_none() {
    let (out, step, written) = stepped();
    let writer = AccessLogWriter::start(out).expect("a thread");
    let losses = writer.losses();
    let mut log = writer.worker();
    step.send(Ok(10)).expect("a writer");
    step.send(Err(io::ErrorKind::Interrupted.into())).expect("a writer");
    step.send(Err(io::ErrorKind::StorageFull.into())).expect("a writer");
    log.line(&json(), &entry("/begun"));
    log.line(&json(), &entry("/lost"));
    log.flush();
    log.line(&json(), &entry("/complete"));
    drop(log);
    drop(step);
    assert!(writer.finish(SOON));
    assert_eq!(losses.lines(), 1);
    assert_eq!(paths(&text(&written)), ["/begun", "/complete"]);
}

#[test]
fn written_buffers_are_reused() {
    let (out, step, _) = stepped();
    let writer = AccessLogWriter::start(out).expect("a thread");
    let mut log = writer.worker();
    let first = log.buffer.as_ptr();
    log.line(&LogConfig::default(), &entry("/"));
    log.flush();
    step.send(Ok(usize::MAX)).expect("a writer");
    let spare = log.spare.recv_timeout(SOON).expect("the buffer");
    assert_eq!((spare.as_ptr(), spare.len()), (first, 0));
}

/// An access log that writes text to `path`.
fn to_file(path: &std::path::Path) -> LogConfig {
    let file = FilePath { path: path.to_owned(), base: std::path::PathBuf::new() };
    LogConfig { access: AccessLogTarget::File(file), ..LogConfig::default() }
}

fn open(writer: &mut AccessLogWriter, config: &LogConfig) {
    let new = writer.open(&config.access).expect("a thread");
    assert!(new.as_ref().is_none_or(|new| new.wait(SOON).is_some_and(|opened| opened.is_ok())));
    writer.commit(new);
}

#[test]
fn each_generation_logs_to_its_own_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = |name: &str| directory.path().join(name);
    let (old, new) = (to_file(&place("old")), to_file(&place("new")));
    let mut writer = AccessLogWriter::start(io::sink()).expect("a thread");
    open(&mut writer, &old);
    open(&mut writer, &old);
    assert_eq!(writer.outputs.list.load().len(), 2, "standard output and one file");
    let mut log = writer.worker();
    let at = |generation, path: &'static str| AccessLogEntry { generation, ..entry(path) };
    log.line(&old, &at(1, "/1"));
    open(&mut writer, &new);
    log.line(&new, &at(2, "/2"));
    // A request that began earlier.
    log.line(&old, &at(1, "/3"));
    writer.retain(&[&new]);
    // Its line was made before, so it is written though no generation names the file any more.
    assert_eq!(writer.outputs.list.load().len(), 2);
    drop(log);
    assert!(writer.finish(SOON));
    let read = |name| std::fs::read_to_string(place(name)).expect("a file");
    let (old, new) = (read("old"), read("new"));
    assert!(old.contains("/1") && old.contains("/3") && old.lines().count() == 2, "{old}");
    assert!(new.contains("/2") && new.lines().count() == 1, "{new}");
}

#[test]
fn a_destination_that_is_no_longer_used_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut writer = AccessLogWriter::start(io::sink()).expect("a thread");
    let mut log = writer.worker();
    for number in 1..50 {
        let config = to_file(&directory.path().join(number.to_string()));
        open(&mut writer, &config);
        log.line(&config, &AccessLogEntry { generation: number, ..entry("/") });
        writer.retain(&[&config]);
    }
    log.flush();
    log.flush();
    let ended = writer.ended.split_off(1);
    let (last, others) = ended.split_last().expect("threads");
    assert!(others.iter().all(|ended| ended.recv_timeout(SOON) != Err(RecvTimeoutError::Timeout)));
    assert_eq!(last.try_recv(), Err(TryRecvError::Empty));
}
