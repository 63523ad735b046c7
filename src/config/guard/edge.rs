//! Listeners with TLS that have no certificate to show, and default certificates of which there are too many or none.

use crate::config::file::subject::Subject;
use crate::config::problem::Reason;
use crate::config::{Config, UnknownHost};

/// The problems of listeners with TLS and certificates, each at the key that it is about.
pub(super) fn problems(config: &Config) -> Vec<(Subject<'static>, Reason)> {
    let mut problems = Vec::new();
    let mut defaults = config.certificates.iter().enumerate().filter(|(_, certificate)| certificate.default);
    let first = defaults.next();
    for (index, _) in defaults {
        let reason = Reason::new("two certificates are marked as the default one");
        let hint = "keep `default = true` on the one that clients without a server name should get";
        problems.push((Subject::Certificate(index, "default"), reason.hint(hint)));
    }
    for (index, tls) in config.listeners.iter().enumerate().filter_map(|(index, of)| Some((index, of.tls.as_ref()?))) {
        if config.certificates.is_empty() {
            let reason = Reason::new("this listener uses TLS, and there is no [[certificate]]");
            let hint = "add `[[certificate]]` with `file = \"site.pem\"` and `key = \"site.key\"`";
            problems.push((Subject::ListenerTls(index, ""), reason.hint(hint)));
        } else if tls.unknown_host == UnknownHost::Default && first.is_none() {
            let reason = Reason::new("`unknown_host = \"default\"` needs a default certificate");
            let hint = "add `default = true` to the [[certificate]] that clients should get";
            problems.push((Subject::ListenerTls(index, "unknown_host"), reason.hint(hint)));
        }
    }
    problems
}
