//! The real demo servers, on threads of the test.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

/// A running demo server. Dropping it ends it, once its last spans are sent.
#[derive(Debug)]
pub(crate) struct Demo {
    pub(crate) address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Demo {
    /// Starts a server with that name, which sends its spans to `zipkin`, if given.
    pub(crate) fn start(name: &str, zipkin: Option<&str>) -> Self {
        let mut options = backends::Options::new(name, "127.0.0.1:0".parse().expect("an address"));
        options.zipkin = zipkin.map(str::to_owned);
        let (end, ended) = oneshot::channel();
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let server = backends::Server::bind(options).await.expect("a server");
                sender.send(server.local_addr()).expect("a test");
                server.run(async { drop(ended.await) }).await;
            });
        });
        let address = receiver.recv().expect("an address");
        Self { address, end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by its hook.
            let _ = thread.join();
        }
    }
}
