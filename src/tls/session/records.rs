//! Memory for records to send.

/// Records to send. Its memory is reused, so that it is cleared by nobody between two uses.
#[derive(Debug, Default)]
pub struct Records {
    /// The records are at the front; the rest is initialized memory.
    pub(super) bytes: Vec<u8>,
    pub(super) filled: usize,
    /// Small pieces that make one record.
    pub(super) joined: Vec<u8>,
}

impl Records {
    /// The records.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Forgets the records and keeps the memory.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Appends records.
    pub fn extend(&mut self, records: &[u8]) {
        self.room(records.len())[..records.len()].copy_from_slice(records);
        self.filled += records.len();
    }

    /// Returns at least `length` bytes behind the records.
    pub(super) fn room(&mut self, length: usize) -> &mut [u8] {
        let end = self.filled + length;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.filled..]
    }
}
