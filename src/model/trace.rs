//! Where something belongs in a trace that began elsewhere (W3C Trace Context).

use std::fmt;

/// The most that is kept of `tracestate`, in characters (W3C Trace Context 3.3.1.5 asks for no less).
const STATE_CHARS_MAX: usize = 512;
/// How many members it may have (W3C Trace Context 3.3.1.1).
const STATE_MEMBERS_MAX: usize = 32;
/// The flag of a trace that somebody records.
const SAMPLED: u8 = 1;
/// The flags of which the meaning is known: recorded, and random.
const KNOWN_FLAGS: u8 = 3;

/// A place in a trace: which trace, below which span of it, and what others want to be told again.
#[derive(Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
    state: String,
}

impl TraceContext {
    /// A place of our own making.
    pub const fn new(trace_id: u128, span_id: u64) -> Self {
        Self { trace_id, span_id, flags: SAMPLED, state: String::new() }
    }

    /// A place below another one in the same trace.
    #[must_use]
    pub fn below(&self, span_id: u64) -> Self {
        Self { span_id, ..self.clone() }
    }

    /// W3C Trace Context 3.2 and 4.3: what cannot be read is as if nobody had said it, and a `tracestate` is nothing without a `traceparent`.
    pub fn parse<'a>(traceparent: &str, tracestate: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let (version, rest) = traceparent.split_at_checked(2)?;
        // Another version may say more behind another hyphen; what it says before means what it means in this one (4.3).
        let (known, more) = rest.split_at_checked(53)?;
        match hex(version)? {
            0 if !more.is_empty() => return None,
            0xff => return None,
            _ if !more.is_empty() && !more.starts_with('-') => return None,
            _ => {}
        }
        let mut parts = known.strip_prefix('-')?.split('-');
        let (trace_id, span_id, flags) = (parts.next()?, parts.next()?, parts.next()?);
        if (trace_id.len(), span_id.len(), flags.len()) != (32, 16, 2) {
            return None;
        }
        let (trace_id, span_id) = (hex(trace_id)?, u64::try_from(hex(span_id)?).ok()?);
        let flags = u8::try_from(hex(flags)?).ok()? & KNOWN_FLAGS;
        (trace_id != 0 && span_id != 0).then(|| Self { trace_id, span_id, flags, state: state(tracestate).unwrap_or_default() })
    }

    /// The `traceparent` that says it.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }

    /// The `tracestate` that goes with it, if there is one.
    pub fn tracestate(&self) -> Option<&str> {
        Some(self.state.as_str()).filter(|state| !state.is_empty())
    }

    /// The trace's number.
    pub const fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The number of the span it is below.
    pub const fn span_id(&self) -> u64 {
        self.span_id
    }

    /// Whether somebody records it.
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.traceparent())
    }
}

/// Lower-case hexadecimal alone.
fn hex(text: &str) -> Option<u128> {
    let digits = text.bytes().all(|octet| matches!(octet, b'0'..=b'9' | b'a'..=b'f'));
    digits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// All its members in one line; none where one of them cannot be read (3.3.1.5: then it may be left out as a whole).
fn state<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut members = Vec::new();
    for member in lines.into_iter().flat_map(|line| line.split(',')).map(|member| member.trim_matches([' ', '\t'])) {
        if member.is_empty() {
            continue;
        }
        let (key, value) = member.split_once('=')?;
        if members.len() == STATE_MEMBERS_MAX || !is_key(key) || !is_value(value) {
            return None;
        }
        members.push(member);
    }
    let state = members.join(",");
    (state.len() <= STATE_CHARS_MAX).then_some(state)
}

/// W3C Trace Context 3.3.1.3.1.
fn is_key(key: &str) -> bool {
    let legal = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"_-*/@".contains(&octet);
    let begins = key.bytes().next().is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit());
    begins && key.len() <= 256 && key.bytes().all(legal)
}

/// W3C Trace Context 3.3.1.3.2.
fn is_value(value: &str) -> bool {
    let legal = |octet: u8| (0x20..=0x7e).contains(&octet) && octet != b',' && octet != b'=';
    (1..=256).contains(&value.len()) && value.bytes().all(legal) && !value.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_understood_is_said_again_to_the_letter() {
        for flags in ["00", "01", "03"] {
            let given = format!("{}{flags}", &GIVEN[..53]);
            let context = TraceContext::parse(&given, ["vendor=a b, other@tenant=1", "", "third=!~"]).unwrap();
            assert_eq!(context.traceparent(), given);
            assert_eq!(context.tracestate(), Some("vendor=a b,other@tenant=1,third=!~"));
            assert_eq!(context.is_sampled(), flags != "00");
        }
        let below = TraceContext::parse(GIVEN, []).unwrap().below(7);
        assert_eq!(below.traceparent(), "00-0af7651916cd43dd8448eb211c80319c-0000000000000007-01");
        assert_eq!(below.tracestate(), None);
    }

    #[test]
    fn what_cannot_be_read_is_as_if_nobody_had_said_it() {
        let hostile = [
            String::new(),
            "00".to_owned(),
            GIVEN.to_uppercase(),
            format!("{GIVEN}-"),
            format!("{GIVEN}-extra"),
            format!(" {GIVEN}"),
            GIVEN.replace("00-", "ff-"),
            GIVEN.replace("00-", "0g-"),
            GIVEN.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            GIVEN.replace("b7ad6b7169203331", &"0".repeat(16)),
            GIVEN.replace("-b7ad", "b7ad-"),
            GIVEN.replace("-01", "-0x"),
            GIVEN.replace('0', "é"),
            "00-ééééééééééééééééééééééééééé".to_owned(),
            "-".repeat(55),
            "0".repeat(100_000),
        ];
        for text in hostile {
            assert_eq!(TraceContext::parse(&text, []), None, "{text:.80}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_this_one_goes() {
        let later = GIVEN.replacen("00-", "cc-", 1);
        assert_eq!(TraceContext::parse(&format!("{later}-what-the-future-will-be-like"), []).unwrap().traceparent(), GIVEN);
        assert_eq!(TraceContext::parse(&format!("{later}.x"), []), None);
    }

    #[test]
    fn a_state_that_cannot_be_read_or_is_too_long_is_left_out_and_the_parent_is_kept() {
        let long = format!("a={}", "x".repeat(256));
        let many = vec!["a=1"; 33].join(",");
        for state in ["no member", "A=1", "a=", "=1", "a=b=c", "a=\u{7f}", "a=é", &format!("{long},{}", long.replacen('a', "b", 1)), &many]
        {
            assert_eq!(TraceContext::parse(GIVEN, [state]).unwrap().tracestate(), None, "{state:.40}");
        }
    }
}
