//! The dashboard in a real browser.

use std::fmt::Write as _;
use std::time::Instant;

use crate::support::browser::Browser;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::{Refusing, Server};

const QUICK: &str = "[health]\ninterval = \"50ms\"\nfall = 1\n";

/// Opens the dashboard of `lb` in a browser and waits until it is live.
fn open(lb: &Lb) -> Option<Browser> {
    let Some(browser) = Browser::start() else {
        eprintln!("skipped: no chromium");
        return None;
    };
    browser.open(&format!("http://{}/", lb.admin));
    shows(&browser, "#link", "live");
    // Lost if the page is reloaded.
    browser.run("window.still = true");
    Some(browser)
}

#[track_caller]
fn shows(browser: &Browser, selector: &str, text: &str) {
    eventually(&format!("{selector} shows {text}"), || browser.text(selector).contains(text).then_some(()));
}

fn was_not_reloaded_and_has_no_errors(browser: &Browser) {
    assert_eq!(browser.run("return window.still"), true, "the page was reloaded");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn edits_and_health_changes_are_shown_without_a_page_reload() {
    let (one, two) = (Server::named("one"), Server::named("two"));
    let file = |weight| format!("{QUICK}{}weight = {weight}\n{}", one.table("one"), two.table("two"));
    let lb = Lb::start(&file(1));
    lb.server_is("one", "up");
    let Some(browser) = open(&lb) else { return };
    shows(&browser, "#server-table tbody", "one");
    assert_eq!(browser.text("#generation"), "1");

    let start = Instant::now();
    lb.edit(&file(3));
    shows(&browser, "#reloads", "weight 1 → 3");
    shows(&browser, "#server-table tbody", "75.0 %");
    eprintln!("an edit was shown after {:?}", start.elapsed());
    shows(&browser, "#generation", "2");
    shows(&browser, "#announcements", "weight 1 -> 3");
    // Its mark on the chart is accessible by keyboard.
    eventually("the mark describes the edit", || {
        browser.run("[...document.querySelectorAll('.marks button')].at(-1)?.focus()");
        browser.text("#note").contains("weight 1 → 3").then_some(())
    });

    one.set_healthy(false);
    shows(&browser, "tr[data-status=down]", "503");
    shows(&browser, "#announcements", "default/one is down");
    one.set_healthy(true);
    eventually("all are up", || browser.text("tr[data-status=down]").is_empty().then_some(()));
    was_not_reloaded_and_has_no_errors(&browser);
}

#[test]
fn markup_in_a_rejected_edit_is_shown_as_text() {
    let server = Server::named("one");
    let file = format!("{NO_CHECKS}{}", server.table("one"));
    let lb = Lb::start(&file);
    let Some(browser) = open(&lb) else { return };
    let markup = "<img src=x onerror='window.still = false'><script>window.still = false</script>";
    lb.edit(&format!("{file}\"{markup}\" = 1\n"));
    for selector in ["#notice", "#reloads li.rejected"] {
        shows(&browser, selector, &format!("unknown key `{markup}`"));
    }
    shows(&browser, "#notice", "Generation 1 stays in force");
    assert_eq!(browser.run("return document.querySelectorAll('body img, body script').length"), 0);
    assert_eq!(browser.run("return document.getElementById('notice').hidden"), false);

    lb.edit(&format!("{file}[[route]]\nname = \"<b>all</b>\"\npool = \"default\"\n"));
    eventually("the notice is gone", || {
        (browser.run("return document.getElementById('notice').hidden") == true).then_some(())
    });
    shows(&browser, "#route-table tbody", "<b>all</b>");
    was_not_reloaded_and_has_no_errors(&browser);
}

#[test]
fn a_thousand_servers_are_searched_filtered_and_sorted() {
    let mut file = NO_CHECKS.to_owned();
    for number in 0..1000 {
        let enabled = number != 700;
        let weight = if number == 800 { 9 } else { 1 };
        let _ = writeln!(
            file,
            "[[server]]\nname = \"node-{number:04}\"\naddress = \"127.0.0.1:1\"\nweight = {weight}\nenabled = {enabled}"
        );
    }
    let lb = Lb::start(&file);
    let Some(browser) = open(&lb) else { return };
    let rows = || browser.run("return document.querySelectorAll('tr[data-status]').length");
    let first = || browser.text("tr[data-status] b").lines().next().map(str::to_owned);
    let choose = |id: &str, value: &str| {
        browser.run(&format!(
            "const input = document.getElementById('{id}'); input.value = '{value}'; \
             input.dispatchEvent(new Event('input'))"
        ));
    };
    assert_eq!((rows(), first().as_deref()), (50.into(), Some("node-0000")));
    choose("search", "node-04 default");
    shows(&browser, "#servers-shown", "50 of 100 servers shown");
    choose("search", "node-0421");
    assert_eq!((rows(), first().as_deref()), (1.into(), Some("node-0421")));
    choose("search", "");
    choose("status", "disabled");
    assert_eq!((rows(), first().as_deref()), (1.into(), Some("node-0700")));
    choose("status", "");
    browser.run(
        "[...document.querySelectorAll('thead button')].find((button) => button.textContent === 'Weight').click()",
    );
    assert_eq!(first().as_deref(), Some("node-0800"));
    assert_eq!(browser.text("[aria-sort=descending]"), "Weight");
    browser.run("document.getElementById('servers-all').click()");
    assert_eq!(rows(), 1000);
    // Rows are updated in place.
    browser.run("window.row = document.querySelector('tr[data-status]')");
    lb.apply(&file.replace("weight = 9", "weight = 8"));
    shows(&browser, "tr[data-status] td[data-label=Weight]", "8");
    assert_eq!(browser.run("return window.row === document.querySelector('tr[data-status]')"), true);
    was_not_reloaded_and_has_no_errors(&browser);
}

#[test]
fn figures_of_a_process_that_hangs_are_shown_as_stale() {
    let server = Server::named("one");
    let mut lb = Lb::start(&format!("{NO_CHECKS}{}", server.table("one")));
    let Some(browser) = open(&lb) else { return };
    let is_stale = || browser.run("return document.body.classList.contains('stale')") == true;
    let applied = || browser.text("#applied");
    assert!(!is_stale());
    // The connection stays open, and nothing comes.
    lb.signal("STOP");
    shows(&browser, "#link", "no response; no news since ");
    assert!(is_stale() && browser.text("title").starts_with("(no news) "), "{}", browser.text("title"));
    shows(&browser, "#announcements", "No news: no response");
    // The age grows by the page's own clock.
    let before = applied();
    eventually("the age grows", || (applied() != before).then_some(()));
    assert!(is_stale());
    lb.signal("CONT");
    shows(&browser, "#link", "live");
    assert!(!is_stale() && !browser.text("title").contains("no news"));

    // The end of the connection is shown at once, also if the last figures say that it is shutting down.
    lb.signal("KILL");
    lb.ends();
    shows(&browser, "#link", "connection lost; no news since ");
    assert!(is_stale());
    assert_eq!(browser.run("return window.still"), true, "the page was reloaded");
}

#[test]
fn a_page_that_never_got_figures_says_so() {
    let server = Server::named("one");
    let lb = Lb::start(&format!("{NO_CHECKS}{}", server.table("one")));
    let Some(browser) = open(&lb) else { return };
    browser.open("about:blank");
    // All subscriptions are taken, so that the page gets a 503 instead of figures.
    let held: Vec<Client> = (0..100)
        .map(|_| {
            let mut client = Client::connect(lb.admin);
            client.send("GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client
        })
        .collect();
    eventually("all subscriptions are taken", || (lb.ask("/api/events").status == 503).then_some(()));
    browser.open(&format!("http://{}/", lb.admin));
    shows(&browser, "#link", "connection lost; reconnecting");
    drop(held);
    shows(&browser, "#link", "live");
}

#[test]
fn a_route_that_old_servers_serve_is_marked() {
    let (old, new) = (Server::named("old"), Refusing::new());
    let checks = "[health]\ninterval = \"50ms\"\nfall = 1\n";
    let lb = Lb::start(&format!("{checks}{}", old.table("old")));
    lb.server_is("old", "up");
    let Some(browser) = open(&lb) else { return };
    lb.apply(&format!("{checks}[[server]]\nname = \"new\"\naddress = \"{}\"\n", new.address));
    shows(&browser, "#route-table tbody", "default, held by old servers");
    lb.apply(&format!("{checks}{}", old.table("old")));
    eventually("the mark goes", || (!browser.text("#route-table tbody").contains("held")).then_some(()));
    was_not_reloaded_and_has_no_errors(&browser);
}
