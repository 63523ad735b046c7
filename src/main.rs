//! The `lb` command: see `lb --help`.
//!
//! [`lb::cli`] parses the command line and runs one command. From there, `lb run` goes on like this:
//!
//! 1. `cli::run` subscribes to the signals, so that none is missed, and then starts the gateway.
//! 2. [`Gateway::start`](lb::control::gateway::Gateway) reads the first configuration (or falls back to the last good one),
//!    binds the listeners, and starts the workers, the health checks, the admin address and the reader of the files.
//! 3. `Gateway::run` is the loop of the control plane, until a signal stops it: it applies edits, publishes health changes,
//!    and ends drains. Meanwhile each [worker](lb::worker) accepts connections, and [`lb::proxy`] serves their requests.
//! 4. At the end the listeners close, and open requests may finish within `timeouts.drain`.
//!
//! Exit codes: 0 for success, 1 for invalid input, 2 for wrong usage or a timeout.

use std::process::ExitCode;

// The same allocator with every libc, because musl's takes a global lock for each allocation. With glibc the choice matters
// little: a request hardly allocates, so that the CPU time per keep-alive request is the same within the noise, and MiMalloc
// takes 1 MiB more at start and keeps more memory after edits of very large files. Its feature `no_thp` does matter: with
// huge pages a start took 16 MiB instead of 6, and no request became measurably cheaper.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lb::cli::main()
}
