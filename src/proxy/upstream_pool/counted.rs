//! The counts of connections to servers, and of their descriptors.

use std::sync::Arc;

use crate::live::descriptors::Descriptors;
use crate::live::server::Server;

/// Counts a connection for its server, and its descriptor, while it exists.
#[derive(Debug)]
pub(super) struct Counted {
    server: Arc<Server>,
    worker: usize,
    _slot: Slot,
}

impl Counted {
    pub(super) fn new(server: &Arc<Server>, worker: usize, slot: Slot) -> Self {
        server.counters().of(worker).opened.add(1);
        Self { server: Arc::clone(server), worker, _slot: slot }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.server.counters().of(self.worker).closed.add(1);
    }
}

/// Counts a connection's descriptor while it exists or is being opened.
#[derive(Debug)]
pub(super) struct Slot {
    descriptors: Arc<Descriptors>,
    worker: usize,
}

impl Slot {
    pub(super) fn new(descriptors: &Arc<Descriptors>, worker: usize) -> Self {
        descriptors.add_server(worker);
        Self { descriptors: Arc::clone(descriptors), worker }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.descriptors.remove_server(self.worker);
    }
}
