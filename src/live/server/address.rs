//! The addresses of a server, of which one is in use.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use super::Server;
use crate::config::{Address, SocketAddress};
use crate::live::address_list::AddressList;
use crate::transport::connect::Targets;

/// The address to connect to.
#[derive(Debug)]
pub(super) enum ResolvedAddress {
    Fixed(SocketAddress),
    Latest(Box<ResolvedName>),
}

#[derive(Debug, Default)]
pub(super) struct ResolvedName {
    /// The latest result; `None` until the name is resolved for the first time.
    addresses: ArcSwapOption<AddressList>,
    /// Notified when no connection could be made, because the name may have other addresses by now.
    lookup_wanted: Notify,
}

impl ResolvedAddress {
    pub(super) fn new(address: &Address) -> Self {
        match address {
            Address::Ip(address) => Self::Fixed(SocketAddress::Ip(*address)),
            Address::Unix(path) => Self::Fixed(SocketAddress::Unix(path.clone())),
            Address::Name(..) => Self::Latest(Box::default()),
        }
    }
}

impl Server {
    /// The address in use; `None` for a host name that has not been resolved yet.
    #[must_use]
    pub fn target(&self) -> Option<SocketAddress> {
        match &self.resolved {
            ResolvedAddress::Fixed(address) => Some(address.clone()),
            ResolvedAddress::Latest(name) => name.addresses.load().as_ref().map(|list| list.current().into()),
        }
    }

    /// The addresses to connect to, of which the first is in use; `None` for a host name that has not been resolved yet.
    #[must_use]
    pub fn targets(&self) -> Option<Targets> {
        match &self.resolved {
            ResolvedAddress::Fixed(address) => Some(Targets::One(address.clone())),
            ResolvedAddress::Latest(name) => Some(Targets::Several(name.addresses.load().as_ref()?.in_turn())),
        }
    }

    /// The addresses of the host name, if it has one and is resolved.
    #[must_use]
    pub fn addresses(&self) -> Option<Arc<AddressList>> {
        match &self.resolved {
            ResolvedAddress::Fixed(_) => None,
            ResolvedAddress::Latest(name) => name.addresses.load_full(),
        }
    }

    /// Sets the addresses that the host name resolves to.
    pub fn set_addresses(&self, addresses: Arc<AddressList>) {
        if let ResolvedAddress::Latest(name) = &self.resolved {
            name.addresses.store(Some(addresses));
        }
    }

    /// Notes that the server accepts connections at `peer`, which is in use from now on.
    pub fn connected_to(&self, peer: SocketAddr) {
        self.change_address("another address of the host name is used", |list| list.with_current(peer));
    }

    /// Notes that the server does not respond at `peer`, so that its next address is tried.
    pub fn unresponsive_at(&self, peer: SocketAddr) {
        self.change_address("no response; the next address of the host name is used", |list| {
            list.without_current(peer)
        });
    }

    fn change_address(&self, message: &'static str, change: impl Fn(&AddressList) -> Option<AddressList>) {
        let ResolvedAddress::Latest(name) = &self.resolved else { return };
        let before = name.addresses.load();
        let Some((before, after)) = before.as_ref().and_then(|list| Some((list, change(list)?))) else { return };
        let (was, is) = (before.current(), after.current());
        // Who comes second sees the change next time.
        let replaced = name.addresses.compare_and_swap(before, Some(Arc::new(after)));
        if replaced.as_ref().is_some_and(|replaced| Arc::ptr_eq(replaced, before)) {
            tracing::info!(pool = %self.key.pool, server = %self.key.name, before = %was, target = %is, "{message}");
        }
    }

    /// Requests a lookup of the host name, if there is one, because no connection could be made.
    pub fn want_lookup(&self) {
        if let ResolvedAddress::Latest(name) = &self.resolved {
            name.lookup_wanted.notify_one();
        }
    }

    /// Waits until a lookup is requested; for ever without a host name.
    pub async fn lookup_wanted(&self) {
        match &self.resolved {
            ResolvedAddress::Fixed(_) => std::future::pending().await,
            ResolvedAddress::Latest(name) => name.lookup_wanted.notified().await,
        }
    }
}
