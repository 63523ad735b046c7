//! The warnings about certificates in the log: when one is put in force, and as time goes by.

use std::time::{Duration, SystemTime};

use super::Gateway;
use crate::live::tls::warnings;

/// The time between two looks at the calendar.
pub(super) const CALENDAR: Duration = Duration::from_secs(60);

impl Gateway {
    /// Whether there is a certificate that could expire.
    pub(super) fn has_certificates(&self) -> bool {
        self.files.certificates().next().is_some()
    }

    /// Logs each warning about certificates that is not yet in the log. The API repeats them while they apply.
    pub(super) fn warn_of_certificates(&mut self) {
        let snapshot = self.state.snapshot.load();
        let warnings = warnings(&self.config, snapshot.tls.as_deref(), SystemTime::now());
        for warning in warnings.iter().filter(|warning| !self.warned.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.warned = warnings;
    }
}
