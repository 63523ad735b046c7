//! Faults in `lb` itself: a panic ends the task it is in, which is one connection or one check, and nothing else.

use std::sync::Arc;

use crate::live::state::State;

/// Has every panic of the process counted, and said in its log.
pub fn watch(state: Arc<State>) {
    std::panic::set_hook(Box::new(move |panic| {
        state.count_panic();
        tracing::error!("a fault in lb itself ended a task: {panic}");
    }));
}
