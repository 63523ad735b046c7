use super::*;

/// The progress of an exchange after a complete request and response, both of which keep the connection open.
fn complete() -> ServerProgress {
    ServerProgress {
        keeps_alive: Cell::new(true),
        received: Cell::new(true),
        response: Cell::new(ResponseState::Complete),
        persistent: Cell::new(true),
        ..ServerProgress::default()
    }
}

#[test]
fn a_response_leaves_the_connection_open_only_if_nothing_speaks_against_it() {
    // Whether the client keeps it alive, the request is received, the response has an end, lb is closing.
    let cases = [
        ((true, true, true, false), true),
        ((false, true, true, false), false),
        ((true, false, true, false), false),
        ((true, true, false, false), false),
        ((true, true, true, true), false),
    ];
    for ((keeps_alive, received, has_end, closing), expected) in cases {
        let progress = ServerProgress {
            keeps_alive: Cell::new(keeps_alive),
            received: Cell::new(received),
            ..ServerProgress::default()
        };
        assert_eq!(progress.persists(has_end, closing), expected, "{keeps_alive} {received} {has_end} {closing}");
    }
}

#[test]
fn the_next_step_depends_on_how_the_exchange_has_ended() {
    let last = |keeps_alive, has_body| ServerProgress {
        keeps_alive: Cell::new(keeps_alive),
        has_body: Cell::new(has_body),
        persistent: Cell::new(false),
        ..complete()
    };
    let cut = |response| ServerProgress { response: Cell::new(response), ..complete() };
    // The progress, whether lb is closing, whether there is input; the next step.
    let cases = [
        (complete(), false, false, Next::Request),
        (complete(), false, true, Next::Request),
        (complete(), true, false, Next::Linger),
        (last(true, false), false, false, Next::Linger),
        (last(false, false), false, false, Next::Close),
        (last(false, true), false, false, Next::Linger),
        (last(false, false), false, true, Next::Linger),
        (cut(ResponseState::NotStarted), false, false, Next::Close),
        (cut(ResponseState::Interim), false, false, Next::Close),
        (cut(ResponseState::Started), false, false, Next::Close),
        (cut(ResponseState::Tunnel), false, false, Next::Linger),
    ];
    for (progress, closing, has_input, expected) in cases {
        assert_eq!(progress.next(closing, has_input), expected, "{progress:?} {closing} {has_input}");
    }
}
