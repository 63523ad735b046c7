//! Which tickets and which names a listener accepts.

use super::*;

#[test]
fn tickets_are_read_by_all_keys_and_only_under_their_client_rule() {
    let (old, new) = (vec![1; 32], vec![2; 48]);
    let rule = [0; 32];
    let ticketer = |keys: &[&Vec<u8>], rule: &[u8; 32]| {
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| (*key).clone()).collect();
        SharedTicketer::new(&keys, rule).expect("keys")
    };
    let ticket = ticketer(&[&old], &rule).encrypt(b"session").expect("a ticket");
    let read = |keys: &[&Vec<u8>], rule| ticketer(keys, rule).decrypt(&ticket);
    assert_eq!(read(&[&old], &rule).as_deref(), Some(&b"session"[..]));
    assert_eq!(read(&[&new, &old], &rule).as_deref(), Some(&b"session"[..]));
    assert_eq!(read(&[&new], &rule), None);
    assert_eq!(read(&[&old], &[1; 32]), None);
    for length in 0..ticket.len() {
        assert_eq!(ticketer(&[&old], &rule).decrypt(&ticket[..length]), None, "{length}");
        let mut damaged = ticket.clone();
        damaged[length] ^= 1;
        assert_eq!(ticketer(&[&old], &rule).decrypt(&damaged), None, "{length}");
    }
    let again = ticketer(&[&new, &old], &rule).encrypt(b"session").expect("a ticket");
    assert_eq!(ticketer(&[&old], &rule).decrypt(&again), None, "the first key encrypts");
}
