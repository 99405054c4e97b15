//! What an answer or its absence means, in the words of the model.
//!
//! Owns the reading of errors and of `Retry-After`. Never decides what happens next.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use super::pool::Way;
use super::resolve::NameError;
use crate::model::Timestamp;
use crate::model::attempt::Failure;

/// How much of an error is kept, in characters.
const DETAIL_CHARS_MAX: usize = 200;

/// The longest delay that is read from `Retry-After`; whoever plans the next attempt has a lower bound of their own.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// The longest `Retry-After` that can be meant seriously, in octets.
const RETRY_AFTER_OCTETS_MAX: usize = 64;

/// Finds the failure in an error of the client.
///
/// Only a failure before the connection stood proves that the request was not read; everything after it counts as time-out, broken or garbled.
pub(super) fn failure(error: &reqwest::Error, way: &Way) -> Failure {
    match way {
        Way::Proxied => of_proxy(error).unwrap_or_else(|| of_receiver(error)),
        Way::Direct | Way::Renamed(..) => of_receiver(error),
    }
}

/// The failure of a proxy, if it is one: the receiver had no part in it.
///
/// A proxy that will not build a tunnel gives a status that does not get here, and of all of them one alone is told apart: 407, which is ours. For the
/// others the receiver is taken to be away, as 502 and 504 say; where 403 was meant, its lane opens and says so.
fn of_proxy(error: &reqwest::Error) -> Option<Failure> {
    if Causes(Some(error)).any(|cause| cause.is::<NameError>()) {
        return Some(Failure::Ours);
    }
    let tunnel = Causes(Some(error)).map(ToString::to_string).find(|text| text.starts_with("tunnel error"))?;
    Some(if tunnel == "tunnel error: unsuccessful" { Failure::Connect } else { Failure::Ours })
}

fn of_receiver(error: &reqwest::Error) -> Failure {
    let causes = || Causes(Some(error));
    if let Some(name) = causes().find_map(|cause| cause.downcast_ref::<NameError>()) {
        return match name {
            NameError::NotFound | NameError::TooSlow => Failure::Dns,
            NameError::Busy => Failure::Ours,
            NameError::Forbidden { .. } | NameError::NotTheProxy => Failure::Blocked,
        };
    }
    if error.is_builder() || causes().any(|cause| cause.downcast_ref().is_some_and(is_ours)) {
        Failure::Ours
    } else if causes().any(|cause| cause.downcast_ref().is_some_and(|cause| is_tls(cause, error))) {
        Failure::Tls
    } else if error.is_connect() {
        Failure::Connect
    } else if error.is_timeout() {
        Failure::Timeout
    } else if causes().any(|cause| cause.downcast_ref().is_some_and(hyper::Error::is_parse)) {
        Failure::Garbled
    } else {
        Failure::Broken
    }
}

/// TLS speaks of invalid data, and while connecting wraps every error once more; TCP does neither.
fn is_tls(cause: &io::Error, error: &reqwest::Error) -> bool {
    let wraps = cause.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>()).is_some();
    cause.kind() == io::ErrorKind::InvalidData || (error.is_connect() && wraps)
}

/// A lack on this machine: of file descriptors or memory. The receiver has no part in it.
///
/// An address that cannot be assigned is not among them: that is also what a host without IPv6 says of a receiver that has nothing else.
pub(super) fn is_ours(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE)) || error.kind() == io::ErrorKind::OutOfMemory
}

/// An error and its causes, outermost first.
struct Causes<'a>(Option<&'a (dyn Error + 'static)>);

impl<'a> Iterator for Causes<'a> {
    type Item = &'a (dyn Error + 'static);

    fn next(&mut self) -> Option<Self::Item> {
        let cause = self.0.take()?;
        // `source` of an I/O error skips the error it wraps.
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        self.0 = match wrapped {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
        Some(cause)
    }
}

/// The causes of an error in one short line, without the URL: its query may hold secrets.
pub(super) fn detail(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut texts: Vec<String> = Vec::new();
    for text in Causes(Some(&error)).map(ToString::to_string) {
        if !texts.iter().any(|said| said.contains(&text)) {
            texts.push(text);
        }
    }
    // A certificate's names and a peer's words appear in errors.
    texts.join(": ").chars().filter(|c| !c.is_control()).take(DETAIL_CHARS_MAX).collect()
}

/// Reads `Retry-After` (RFC 9110 10.2.3): seconds or a date; anything else is as if it were not there.
pub(super) fn retry_after(value: &[u8], now: Timestamp) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= RETRY_AFTER_OCTETS_MAX)?.trim();
    let delay = if !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit()) {
        // More digits than fit mean a long time, not nothing.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        let since_epoch = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(millis).since(now)
    };
    Some(delay.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::parse("2026-11-22T02:00:00Z").unwrap()
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_else_nothing() {
        let seconds = |text: &str| retry_after(text.as_bytes(), now()).map(|delay| delay.as_secs());
        for (text, delay) in [
            ("0", Some(0)),
            ("5", Some(5)),
            (" 7 ", Some(7)),
            ("86400", Some(86_400)),
            ("99999999999", Some(86_400)),
            ("99999999999999999999999999999999", Some(86_400)),
            ("Sun, 22 Nov 2026 02:00:30 GMT", Some(30)),
            ("Sun, 22 Nov 2026 01:00:00 GMT", Some(0)),
            ("Sun, 22 Nov 2099 01:00:00 GMT", Some(86_400)),
            ("Sunday, 22-Nov-26 02:00:30 GMT", Some(30)),
            ("", None),
            (" ", None),
            ("-1", None),
            ("+5", None),
            ("1.5", None),
            ("1e3", None),
            ("soon", None),
            ("5 minutes", None),
            ("Sun, 99 Nov 2026 02:00:30 GMT", None),
        ] {
            assert_eq!(seconds(text), delay, "{text:?}");
        }
        assert_eq!(seconds(&"1".repeat(10_000)), None);
        assert_eq!(retry_after(&[0xff, 0xfe], now()), None);
    }

    proptest! {
        #[test]
        fn no_retry_after_panics_or_exceeds_its_bound(value in prop::collection::vec(any::<u8>(), 0..80), text in "[A-Z][a-z]{2}, [0-9]{2} Nov [0-9]{4} [0-9:]{8} GMT") {
            for value in [value.as_slice(), text.as_bytes()] {
                prop_assert!(retry_after(value, now()).is_none_or(|delay| delay <= RETRY_AFTER_MAX));
            }
        }
    }
}
