use super::idle::{EARLY, LONG};
use super::*;
use crate::config::{ProxyHeaderVersion, UpstreamConfig, UpstreamProtocol};
use crate::live::address_list::AddressList;
use crate::live::counters::PerWorker;
use crate::live::health::HealthState;
use crate::live::listener::{ListenerId, LiveListener};
use crate::live::server::ServerKey;
use crate::proxy::client::Client;

fn pool(limit: usize) -> UpstreamPool {
    UpstreamPool::new(Arc::new(Descriptors::new(limit, 1)), 0, &Rc::default())
}

fn client() -> Client {
    let address = SocketAddr::from(([127, 0, 0, 1], 8080));
    let listener = LiveListener {
        id: ListenerId(1),
        name: "web".into(),
        configured: address.into(),
        address: address.into(),
        rules: Arc::default(),
        counters: Arc::new(PerWorker::new(1)),
    };
    Client::plain(Arc::new(listener), SocketAddr::from(([192, 0, 2, 1], 1234)).into())
}

fn wanted<'a>(server: &'a Arc<Server>, client: &'a Client) -> WantedConnection<'a> {
    let protocol = UpstreamProtocol::Http1;
    WantedConnection { server, client, protocol, repeatable: true, only_new: true, avoided: None, upgrades: false }
}

fn server(address: Address) -> Arc<Server> {
    let key = ServerKey { pool: "default".into(), name: "server1".into(), address };
    Arc::new(Server::new(ServerId(1), key, HealthState::Up, 1))
}

fn listening() -> (std::net::TcpListener, Arc<Server>) {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = Address::Ip(socket.local_addr().expect("an address"));
    (socket, server(address))
}

fn point(server: &Server, address: SocketAddr) {
    server.set_addresses(Arc::new(AddressList::new(vec![address], None).expect("an address")));
}

#[tokio::test]
async fn a_connection_to_the_old_address_of_a_name_is_not_reused() {
    let [here, there] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    let address = |socket: &std::net::TcpListener| socket.local_addr().expect("an address");
    let name = Address::Name("backend".to_owned(), address(&here).port());
    let key = ServerKey { pool: "default".into(), name: "server1".into(), address: name };
    let server = Arc::new(Server::new(ServerId(1), key, HealthState::Up, 1));
    let upstreams = pool(9);
    for (before, after, kept) in [(&here, &here, true), (&here, &there, false)] {
        for swept in [false, true] {
            point(&server, address(before));
            let connection = upstreams.open(&wanted(&server, &client()), Duration::ZERO).await.expect("a connection");
            upstreams.put(&server, connection, Instant::now(), None);
            point(&server, address(after));
            if swept {
                upstreams.sweep(Instant::now());
                assert_eq!(server.connections(), u64::from(kept));
            }
            assert_eq!(upstreams.take_idle(server.id, None, true).is_some(), kept);
        }
    }
}

#[tokio::test]
async fn a_server_that_closes_connections_early_gets_new_ones_for_what_cannot_be_repeated() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = Address::Ip(socket.local_addr().expect("an address"));
    let key = ServerKey { pool: "default".into(), name: "server1".into(), address };
    let server = Arc::new(Server::new(ServerId(1), key, HealthState::Up, 1));
    let upstreams = pool(9);
    let now = Instant::now();
    let open = async || upstreams.open(&wanted(&server, &client()), Duration::ZERO).await.expect("a connection");
    for (closed, is_taken) in [(0, true), (2, true), (3, false)] {
        upstreams.put(&server, open().await, now, None);
        for _ in 0..closed {
            upstreams.put(&server, open().await, Instant::now(), None);
            let taken = upstreams.take_idle(server.id, None, true).expect("an idle connection");
            upstreams.found_closed(&server, &taken);
        }
        assert_eq!(upstreams.take_idle(server.id, None, false).is_some(), is_taken, "{closed}");
    }
    // A sweep in between forgets a server of which nothing is known.
    let taken = upstreams.take_idle(server.id, None, true).expect("an idle connection");
    upstreams.idle.borrow_mut().clear();
    (0..3).for_each(|_| upstreams.found_closed(&server, &taken));
    upstreams.sweep(now);
    upstreams.put(&server, open().await, now, None);
    assert!(upstreams.take_idle(server.id, None, false).is_none());
    // One that is reused, or that stays open for long, restores the trust.
    for reused in [true, false] {
        let taken = upstreams.take_idle(server.id, None, true).expect("an idle connection");
        for _ in 0..3 {
            upstreams.found_closed(&server, &taken);
        }
        if reused {
            upstreams.put(&server, taken, now, None);
        } else {
            upstreams.put(&server, open().await, now, None);
            assert!(upstreams.take_idle(server.id, None, false).is_none());
            upstreams.sweep(now + EARLY);
            assert!(
                upstreams.take_idle(server.id, None, false).is_none(),
                "it may close when the next request arrives"
            );
            upstreams.sweep(now + LONG);
        }
        let taken = upstreams.take_idle(server.id, None, false).expect("an idle connection");
        upstreams.put(&server, taken, now, None);
    }
}

#[tokio::test]
async fn a_connection_is_closed_before_the_server_does_so() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = Address::Ip(socket.local_addr().expect("an address"));
    let key = ServerKey { pool: "default".into(), name: "server1".into(), address };
    let server = Arc::new(Server::new(ServerId(1), key, HealthState::Up, 1));
    let (upstreams, now) = (pool(9), Instant::now());
    for (timeout, age, is_kept) in [(0, 0, false), (5, 3999, true), (5, 4000, false)] {
        let connection = upstreams.open(&wanted(&server, &client()), Duration::ZERO).await.expect("a connection");
        upstreams.put(&server, connection, now, Some(Duration::from_secs(timeout)));
        upstreams.sweep(now + Duration::from_millis(age));
        assert_eq!(upstreams.take_idle(server.id, None, true).is_some(), is_kept, "{timeout} {age}");
    }
}

#[tokio::test]
async fn at_the_limit_the_longest_idle_connection_is_closed() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = Address::Ip(socket.local_addr().expect("an address"));
    let servers = [1, 2].map(|id| {
        let key = ServerKey { pool: "default".into(), name: format!("server{id}").into(), address: address.clone() };
        Arc::new(Server::new(ServerId(id), key, HealthState::Up, 1))
    });
    let upstreams = pool(3);
    let start = Instant::now();
    let open = async |server: usize| {
        upstreams.open(&wanted(&servers[server], &client()), Duration::ZERO).await.expect("a connection")
    };
    let (first, second, third) = (open(0).await, open(1).await, open(0).await);
    upstreams.put(&servers[0], first, start + Duration::from_secs(1), None);
    upstreams.put(&servers[1], second, start, None);
    let fourth = open(0).await;
    assert_eq!((servers[0].connections(), servers[1].connections()), (3, 0), "the other server's was closed");
    let fifth = open(1).await;
    assert_eq!((servers[0].connections(), servers[1].connections()), (2, 1));
    // Connections in use are never closed.
    let sixth = upstreams.open(&wanted(&servers[1], &client()), Duration::ZERO).await;
    assert!(matches!(sixth, Err(ConnectError::NoDescriptor)), "{sixth:?}");
    assert_eq!(upstreams.descriptors_in_use(), 3);
    drop((third, fourth, fifth));
    assert_eq!(upstreams.descriptors_in_use(), 0);
}

#[tokio::test]
async fn the_limits_of_idle_connections_apply_to_those_that_are_idle_already() {
    let (_socket, server) = listening();
    let (upstreams, now) = (pool(99), Instant::now());
    let limits = |idle, idle_connections| UpstreamConfig { idle, idle_connections, ..UpstreamConfig::default() };
    let open = async || upstreams.open(&wanted(&server, &client()), Duration::ZERO).await.expect("a connection");
    for i in 0..8 {
        let connection = open().await;
        upstreams.put(&server, connection, now + Duration::from_secs(i), None);
    }
    assert_eq!(server.connections(), 8);
    server.set_idle_limits(&limits(Duration::from_secs(60), 5));
    upstreams.sweep(now + Duration::from_secs(10));
    assert_eq!(server.connections(), 5);
    // Another one replaces the least recently used.
    upstreams.put(&server, open().await, now + Duration::from_secs(10), None);
    assert_eq!(server.connections(), 5);
    server.set_idle_limits(&limits(Duration::from_secs(4), 5));
    upstreams.sweep(now + Duration::from_secs(10));
    assert_eq!(server.connections(), 2, "those since 7 and 10 s");
    let newest = upstreams.take_idle(server.id, None, true).expect("an idle connection");
    assert_eq!(newest.idle_since, Some(now + Duration::from_secs(10)));
    server.set_idle_limits(&limits(Duration::from_secs(4), 0));
    upstreams.put(&server, newest, now + Duration::from_secs(10), None);
    upstreams.sweep(now + Duration::from_secs(10));
    assert_eq!((server.connections(), server.keeps_connections()), (0, false));
}

#[tokio::test]
async fn connections_that_were_idle_when_the_server_was_silent_are_closed() {
    let (_socket, server) = listening();
    let (upstreams, now) = (pool(9), Instant::now());
    let open = async || upstreams.open(&wanted(&server, &client()), Duration::ZERO).await.expect("a connection");
    let in_use = open().await;
    upstreams.put(&server, open().await, now, None);
    server.end_idle();
    assert!(upstreams.take_idle(server.id, None, true).is_none());
    upstreams.put(&server, open().await, now, None);
    assert_eq!(server.connections(), 1, "none is kept before a check has passed");
    server.allow_idle();
    upstreams.put(&server, open().await, now, None);
    server.end_idle();
    server.allow_idle();
    upstreams.put(&server, in_use, now, None);
    upstreams.sweep(now);
    assert_eq!(server.connections(), 1, "the one that was in use");
    assert!(upstreams.take_idle(server.id, None, true).is_some());
}

#[tokio::test]
async fn a_request_waits_for_a_descriptor_and_not_for_ever() {
    let (_socket, server) = listening();
    let (upstreams, patience) = (pool(1), Duration::from_secs(20));
    let client = client();
    let first = upstreams.open(&wanted(&server, &client), patience).await.expect("a connection");
    let refused = upstreams.open(&wanted(&server, &client), Duration::from_millis(1)).await;
    assert!(matches!(refused, Err(ConnectError::NoDescriptor)), "{refused:?}");
    let leaves = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(first);
    };
    let wanted = wanted(&server, &client);
    let (second, ()) = tokio::join!(upstreams.open(&wanted, patience), leaves);
    // One that becomes idle makes room too.
    let becomes_idle = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        upstreams.put(&server, second.expect("a connection"), Instant::now(), None);
    };
    let (third, ()) = tokio::join!(upstreams.open(&wanted, patience), becomes_idle);
    assert!(third.is_ok());
    assert_eq!(upstreams.descriptors_in_use(), 1);
}

#[tokio::test]
async fn a_connection_with_a_proxy_header_is_used_by_its_client_only() {
    let (_socket, server) = listening();
    let upstreams = pool(9);
    let [first, second] = [client(), client()];
    let open =
        async |client: &Client| upstreams.open(&wanted(&server, client), Duration::ZERO).await.expect("a connection");
    let plain = open(&first).await;
    assert_eq!((plain.owner, first.owner()), (None, None));
    upstreams.put(&server, plain, Instant::now(), None);
    server.set_proxy_header(Some(ProxyHeaderVersion::V2));
    let [own, other] = [open(&first).await, open(&second).await];
    let [Some(first_id), Some(second_id)] = [own.owner, other.owner] else { panic!("both have an owner") };
    assert!(first_id != second_id && first.owner() == Some(first_id));
    upstreams.put(&server, own, Instant::now(), None);
    upstreams.put(&server, other, Instant::now(), None);
    let taken = upstreams.take_idle(server.id, Some(first_id), true).expect("its own, although another one is newer");
    assert!(upstreams.take_idle(server.id, Some(first_id), true).is_none(), "it has no other");
    upstreams.put(&server, taken, Instant::now(), None);
    upstreams.close_own(second_id);
    assert!(upstreams.take_idle(server.id, Some(second_id), true).is_none(), "its client has left");
    assert_eq!(upstreams.take_idle(server.id, None, true).and_then(|plain| plain.owner), None);
    assert!(upstreams.take_idle(server.id, Some(first_id), true).is_some());
}
