//! The addresses of a host name, and which of them is in use. Pure.

use std::fmt;
use std::net::SocketAddr;

/// The addresses of a host name, in the order in which they are tried; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressList {
    /// In the resolver's order.
    all: Box<[SocketAddr]>,
    /// The index of the one in use.
    current: usize,
}

impl AddressList {
    /// The addresses that a resolver has returned; `None` if there are none. `before` is the address in use so far, which
    /// stays in use if it is among them; otherwise the first one is.
    #[must_use]
    pub fn new(all: Vec<SocketAddr>, before: Option<SocketAddr>) -> Option<Self> {
        let current = before.and_then(|before| all.iter().position(|address| *address == before)).unwrap_or(0);
        if all.is_empty() { None } else { Some(Self { all: all.into(), current }) }
    }

    /// The address in use.
    #[must_use]
    pub fn current(&self) -> SocketAddr {
        self.all[self.current]
    }

    /// The number of addresses.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Whether both have the same addresses, in any order, and use the same one.
    #[must_use]
    pub fn has_same(&self, other: &Self) -> bool {
        let mut all = [self, other].map(|list| list.all.to_vec());
        all.iter_mut().for_each(|addresses| addresses.sort_unstable());
        self.current() == other.current() && all[0] == all[1]
    }

    /// All addresses: the one in use, then those after it, then those before it.
    #[must_use]
    pub fn in_turn(&self) -> Vec<SocketAddr> {
        let (before, after) = self.all.split_at(self.current);
        [after, before].concat()
    }

    /// The same list with this address in use; `None` if it is so already, or is not on the list.
    #[must_use]
    pub fn with_current(&self, address: SocketAddr) -> Option<Self> {
        let current = self.all.iter().position(|other| other.ip() == address.ip())?;
        (current != self.current).then(|| Self { all: self.all.clone(), current })
    }

    /// The same list with the address after this one in use; `None` if this one is not in use, or is the only one.
    #[must_use]
    pub fn without_current(&self, address: SocketAddr) -> Option<Self> {
        let is_current = self.current().ip() == address.ip();
        (is_current && self.count() > 1)
            .then(|| Self { all: self.all.clone(), current: (self.current + 1) % self.count() })
    }
}

/// All addresses, in the order in which they are tried.
impl fmt::Display for AddressList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, address) in self.in_turn().iter().enumerate() {
            write!(f, "{}{address}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 80))
    }

    #[test]
    fn the_address_in_use_stays_so_while_it_is_listed() {
        let v6: SocketAddr = "[::1]:80".parse().expect("an address");
        let cases = [
            (vec![], None, None),
            (vec![address(2), address(1)], None, Some(address(2))),
            (vec![v6, address(1)], None, Some(v6)),
            (vec![address(1), address(2)], Some(address(2)), Some(address(2))),
            (vec![address(1)], Some(address(9)), Some(address(1))),
        ];
        for (all, before, expected) in cases {
            let list = AddressList::new(all.clone(), before);
            assert_eq!(list.map(|list| list.current()), expected, "{all:?} {before:?}");
        }
    }

    #[test]
    fn the_others_follow_in_turn() {
        let list = AddressList::new([1, 2, 3].map(address).to_vec(), Some(address(2))).expect("a list");
        assert_eq!(list.in_turn(), [2, 3, 1].map(address));
        assert_eq!(list.with_current(address(3)).map(|list| list.in_turn()), Some([3, 1, 2].map(address).to_vec()));
        assert_eq!((list.with_current(address(2)), list.with_current(address(9))), (None, None));
        assert_eq!(list.without_current(address(2)).map(|list| list.current()), Some(address(3)));
        assert_eq!(list.without_current(address(1)), None);
        let last = list.with_current(address(3)).and_then(|list| list.without_current(address(3)));
        assert_eq!(last.map(|list| list.current()), Some(address(1)));
        let shuffled = AddressList::new([3, 1, 2].map(address).to_vec(), Some(address(2))).expect("a list");
        assert!(list.has_same(&shuffled));
        assert!(!list.has_same(&AddressList::new([2, 3].map(address).to_vec(), None).expect("a list")));
        let one = AddressList::new(vec![address(1)], None).expect("a list");
        assert_eq!(one.without_current(address(1)), None);
    }
}
