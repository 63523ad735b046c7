//! Panics: each ends the task it happens in, which is one connection or one check, and nothing else.

use std::sync::Arc;

use crate::live::state::State;

/// Has every panic of the process counted and logged.
pub fn install_hook(state: Arc<State>) {
    std::panic::set_hook(Box::new(move |panic| {
        state.count_panic();
        let reason = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(
            reason,
            location = panic.location().map(tracing::field::display),
            "panic; its connection or task has ended"
        );
    }));
}
