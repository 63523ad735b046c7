//! A list whose entries know their place, so that each can leave at once.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use super::{ConnectionSlot, RequestTimer};

/// Something that can be in a [`Roster`].
pub trait RosterEntry: Sized {
    /// Its place.
    fn place(&self) -> &Place<Self>;
}

impl RosterEntry for ConnectionSlot {
    fn place(&self) -> &Place<Self> {
        &self.place
    }
}

impl RosterEntry for RequestTimer {
    fn place(&self) -> &Place<Self> {
        &self.place
    }
}

/// The entries, in no particular order.
#[derive(Debug)]
pub(super) struct Roster<T>(RefCell<Vec<Rc<T>>>);

/// The place of an entry.
#[derive(Debug)]
pub struct Place<T> {
    roster: Weak<Roster<T>>,
    index: Cell<usize>,
}

impl<T> Default for Roster<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T: RosterEntry> Roster<T> {
    pub(super) fn add(&self, entry: &Rc<T>) {
        let mut entries = self.0.borrow_mut();
        entry.place().index.set(entries.len());
        entries.push(Rc::clone(entry));
    }

    pub(super) fn each(&self, act: impl Fn(&T)) {
        self.0.borrow().iter().for_each(|entry| act(entry));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

impl<T: RosterEntry> Place<T> {
    /// A place for an entry that is about to be added.
    pub(super) fn new(roster: &Rc<Roster<T>>) -> Self {
        Self { roster: Rc::downgrade(roster), index: Cell::new(usize::MAX) }
    }

    /// Takes the entry out; once is enough.
    pub(super) fn leave(&self) {
        let Some(roster) = self.roster.upgrade() else { return };
        let mut entries = roster.0.borrow_mut();
        let index = self.index.replace(usize::MAX);
        if index < entries.len() {
            entries.swap_remove(index);
            if let Some(moved) = entries.get(index) {
                moved.place().index.set(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Number(usize, Place<Number>);

    impl RosterEntry for Number {
        fn place(&self) -> &Place<Self> {
            &self.1
        }
    }

    #[test]
    fn entries_leave_in_any_order() {
        let roster = Rc::new(Roster::default());
        let entries: Vec<_> = (0..5).map(|number| Rc::new(Number(number, Place::new(&roster)))).collect();
        entries.iter().for_each(|entry| roster.add(entry));
        let mut left: Vec<usize> = (0..5).collect();
        for number in [2, 0, 4, 1, 3] {
            entries[number].place().leave();
            entries[number].place().leave();
            left.retain(|entry| *entry != number);
            let seen = RefCell::new(Vec::new());
            roster.each(|entry| seen.borrow_mut().push(entry.0));
            let mut seen = seen.into_inner();
            seen.sort_unstable();
            assert_eq!(seen, left);
        }
        assert!(roster.is_empty());
    }
}
