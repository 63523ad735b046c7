//! Memory and time that all connections of a worker share.

use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::http1::head::HeadPool;
use crate::transport::Buffers;

/// One per worker.
#[derive(Debug, Default)]
pub struct Resources {
    /// Unused buffers for reading and writing.
    pub buffers: Rc<Buffers>,
    /// Unused memory for heads.
    pub heads: HeadPool,
    /// The current second, and its `Date` value.
    date: RefCell<(u64, String)>,
}

impl Resources {
    /// The value of `Date` for a response sent now (RFC 9110, section 6.6.1).
    pub fn date(&self) -> Ref<'_, str> {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.date.borrow().0 != second {
            *self.date.borrow_mut() = (second, httpdate::fmt_http_date(now));
        }
        Ref::map(self.date.borrow(), |(_, text)| text.as_str())
    }
}
