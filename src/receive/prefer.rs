//! `Prefer: wait=N` (RFC 7240 4.3): how long a caller would like to wait for an outcome.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// The longest wait, in seconds; who asks for more gets this.
pub const WAIT_SECONDS_MAX: u64 = 30;

/// `Prefer`.
pub const PREFER: HeaderName = HeaderName::from_static("prefer");
/// `Preference-Applied`.
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// A wait that is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    seconds: u64,
}

impl Wait {
    /// How long.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// What `Preference-Applied` says of it (RFC 7240 3).
    pub fn applied(self) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("wait={}", self.seconds)).ok()
    }
}

/// The wait that is asked for. A preference that cannot be read is not applied; of several the first counts (RFC 7240 2).
pub fn wait(headers: &HeaderMap) -> Option<Wait> {
    let lines = headers.get_all(PREFER).iter().filter_map(|line| line.to_str().ok());
    let value = lines.flat_map(|line| line.split(',')).find_map(value_of_wait)?;
    let digits = value.trim().trim_matches('"');
    let seconds: u64 = if digits.bytes().all(|octet| octet.is_ascii_digit()) { digits.parse().ok()? } else { return None };
    Some(Wait { seconds: seconds.min(WAIT_SECONDS_MAX) })
}

/// None when it is another preference.
fn value_of_wait(preference: &str) -> Option<&str> {
    let (name, value) = preference.split(';').next()?.split_once('=')?;
    name.trim().eq_ignore_ascii_case("wait").then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(lines: &[&'static str]) -> Option<u64> {
        let headers: HeaderMap = lines.iter().map(|line| (PREFER, HeaderValue::from_static(line))).collect();
        wait(&headers).map(|wait| wait.seconds)
    }

    #[test]
    fn a_wait_is_found_among_other_preferences_and_bounded() {
        assert_eq!(seconds(&["wait=2"]), Some(2));
        assert_eq!(seconds(&["respond-async, Wait = \"5\"; x=y"]), Some(5));
        assert_eq!(seconds(&["return=minimal", "wait=0"]), Some(0));
        assert_eq!(seconds(&["wait=31"]), Some(30));
        assert_eq!(seconds(&["wait=2, wait=9"]), Some(2));
    }

    #[test]
    fn what_cannot_be_read_is_not_applied() {
        for line in ["wait", "wait=", "wait=-1", "wait=+1", "wait=soon", "wait=1.5", "waits=2", "", "wait=99999999999999999999"] {
            assert_eq!(seconds(&[line]), None, "{line}");
        }
        assert_eq!(seconds(&[]), None);
    }
}
