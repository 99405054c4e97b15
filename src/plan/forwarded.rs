//! For whom a proxy asks: `X-Forwarded-For` and `Forwarded` (RFC 7239), read from the right.
//!
//! Each proxy writes to the right of what it was sent whom it was asked by, so that nothing is believed but what a proxy that is trusted wrote: going to
//! the left, the first address that is no trusted proxy's is the one who asks, and what stands beyond it may be anybody's invention. Where all of them are
//! trusted it is the last one that is vouched for.

use std::net::{IpAddr, SocketAddr};

use crate::model::origin::{ForwardedBy, Forwarding, Origin, Unsaid};

/// How many proxies may stand between us and whoever asks.
pub const HOPS_MAX: usize = 32;
/// How much of what they write is read, in octets, from the right.
pub const OCTETS_MAX: usize = 4096;

/// Where a request comes from that somebody's connection brought, with the values of the header in the order they came in. `None` stands for a value
/// that is no visible ASCII.
pub fn origin<'v>(forwarding: &Forwarding, peer: IpAddr, values: impl DoubleEndedIterator<Item = Option<&'v str>>) -> Origin {
    let peer = peer.to_canonical();
    if !forwarding.trusts(peer) {
        return Origin::Peer(peer);
    }
    let mut walk = Walk { forwarding, hops: 0, octets: 0, farthest: None };
    for value in values.rev() {
        let step = match (value, forwarding.by) {
            (None, _) => Step::Lost,
            (Some(value), ForwardedBy::XForwardedFor) => walk.list(value),
            (Some(value), ForwardedBy::Forwarded) => walk.elements(value),
        };
        match step {
            Step::On => {}
            Step::Found(address) => return Origin::Forwarded(address),
            Step::Lost => return Origin::Unsaid(peer, Unsaid::Malformed),
        }
    }
    walk.farthest.map_or(Origin::Unsaid(peer, Unsaid::Missing), Origin::Forwarded)
}

/// What one value, or one address of it, means for the way.
enum Step {
    /// All of it are trusted proxies.
    On,
    /// Here is who asks.
    Found(IpAddr),
    /// A trusted proxy wrote what nobody can read, or too much.
    Lost,
}

/// The way from the right to the left.
struct Walk<'f> {
    forwarding: &'f Forwarding,
    hops: usize,
    octets: usize,
    farthest: Option<IpAddr>,
}

impl Walk<'_> {
    fn hop(&mut self, address: Option<IpAddr>) -> Step {
        self.hops += 1;
        match address {
            Some(address) if self.hops <= HOPS_MAX && self.forwarding.trusts(address) => {
                self.farthest = Some(address);
                Step::On
            }
            Some(address) if self.hops <= HOPS_MAX => Step::Found(address),
            Some(_) | None => Step::Lost,
        }
    }

    /// No quoting there: what stands to the left of a comma cannot reach beyond it.
    fn list(&mut self, value: &str) -> Step {
        for text in value.rsplit(',') {
            self.octets = self.octets.saturating_add(text.len() + 1);
            if self.octets > OCTETS_MAX {
                return Step::Lost;
            }
            match self.hop(node(text.trim_matches([' ', '\t']))) {
                Step::On => {}
                end @ (Step::Found(_) | Step::Lost) => return end,
            }
        }
        Step::On
    }

    /// What stands to the left may open a quotation that what a trusted proxy wrote would close: a value is read as a whole or not at all.
    fn elements(&mut self, value: &str) -> Step {
        self.octets = self.octets.saturating_add(value.len());
        let Some(elements) = (self.octets <= OCTETS_MAX).then(|| elements(value)).flatten() else { return Step::Lost };
        for text in elements.into_iter().rev() {
            match self.hop(text.as_deref().and_then(node)) {
                Step::On => {}
                end @ (Step::Found(_) | Step::Lost) => return end,
            }
        }
        Step::On
    }
}

/// An address, with a port that nobody needs. `unknown` and names that hide an address (RFC 7239 6.2, 6.3) are none.
fn node(text: &str) -> Option<IpAddr> {
    let bare = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::from);
    bare().or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}

/// The `for` of each element of a `Forwarded` value (RFC 7239 4); none when it is not one.
fn elements(value: &str) -> Option<Vec<Option<String>>> {
    let mut rest = value.trim_matches([' ', '\t']);
    let mut all = Vec::new();
    loop {
        let mut found = None;
        loop {
            let (name, after) = token(rest)?;
            let (text, after) = value_of(after.strip_prefix('=')?)?;
            if name.eq_ignore_ascii_case("for") && found.replace(text).is_some() {
                // RFC 7239 4: each parameter occurs once.
                return None;
            }
            rest = after.trim_start_matches([' ', '\t']);
            match rest.strip_prefix(';') {
                Some(more) => rest = more.trim_start_matches([' ', '\t']),
                None => break,
            }
        }
        all.push(found);
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start_matches([' ', '\t']),
            None => return rest.is_empty().then_some(all),
        }
    }
}

/// RFC 9110 5.6.2.
fn token(text: &str) -> Option<(&str, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token or a quoted string (RFC 9110 5.6.4).
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else { return token(text).map(|(token, rest)| (token.to_owned(), rest)) };
    let mut unquoted = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((unquoted, quoted.get(at + 1..)?)),
            '\\' => unquoted.push(characters.next()?.1),
            c => unquoted.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn forwarding(by: ForwardedBy) -> Forwarding {
        Forwarding { trusted: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], by }
    }

    fn of(by: ForwardedBy, peer: &str, values: &[&str]) -> Origin {
        origin(&forwarding(by), ip(peer), values.iter().map(|value| Some(*value)))
    }

    #[test]
    fn the_rightmost_address_that_is_no_trusted_proxy_s_is_who_asks() {
        let list = |values: &[&str]| of(ForwardedBy::XForwardedFor, "10.0.0.1", values);
        let asks = |address: &str| Origin::Forwarded(ip(address));
        assert_eq!(list(&["203.0.113.7"]), asks("203.0.113.7"));
        assert_eq!(list(&["1.2.3.4, 203.0.113.7 ,\t10.1.1.1"]), asks("203.0.113.7"));
        assert_eq!(list(&["1.2.3.4", "203.0.113.7", "10.1.1.1"]), asks("203.0.113.7"), "several headers are one list");
        assert_eq!(list(&["203.0.113.7:4711"]), asks("203.0.113.7"));
        assert_eq!(list(&["[2001:db8::1]:4711, fd00::1"]), asks("2001:db8::1"));
        assert_eq!(list(&["2001:db8::1,[fd00::1]"]), asks("2001:db8::1"));
        assert_eq!(list(&["::ffff:203.0.113.7"]), asks("203.0.113.7"));
        assert_eq!(list(&["nonsense\", 203.0.113.7"]), asks("203.0.113.7"), "what stands beyond is not read");
        assert_eq!(list(&["10.3.3.3, 10.2.2.2"]), asks("10.3.3.3"), "the last one that is vouched for");
        assert_eq!(of(ForwardedBy::XForwardedFor, "::ffff:10.0.0.1", &["203.0.113.7"]), asks("203.0.113.7"));
    }

    #[test]
    fn who_is_not_trusted_is_the_one_who_asks_whatever_it_says() {
        for by in ForwardedBy::ALL {
            assert_eq!(of(*by, "192.0.2.1", &["10.0.0.1"]), Origin::Peer(ip("192.0.2.1")));
            assert_eq!(of(*by, "192.0.2.1", &["for=10.0.0.1"]), Origin::Peer(ip("192.0.2.1")));
        }
    }

    #[test]
    fn a_trusted_proxy_that_says_nothing_to_be_read_vouches_for_nobody() {
        let malformed = Origin::Unsaid(ip("10.0.0.1"), Unsaid::Malformed);
        let list = |value: &str| of(ForwardedBy::XForwardedFor, "10.0.0.1", &[value]);
        for value in [
            "",
            "unknown",
            "203.0.113.7,",
            "203.0.113.7, ,10.0.0.2",
            "203.0.113.7 10.0.0.2",
            "203.0.113.300",
            "\"203.0.113.7\"",
            "for=1.2.3.4",
        ] {
            assert_eq!(list(value), malformed, "{value:?}");
        }
        let element = |value: &str| of(ForwardedBy::Forwarded, "10.0.0.1", &[value]);
        for value in [
            "",
            "203.0.113.7",
            "for",
            "for=",
            "for=unknown",
            "for=_hidden",
            "proto=https",
            "for=[2001:db8::1]",
            "for=203.0.113.7,",
            "for=203.0.113.7;",
            "for=203.0.113.7;for=203.0.113.8",
            "for = 203.0.113.7",
            "for=\"203.0.113.7",
            // What an honest proxy appended is inside of the quotation of whoever came before.
            "for=1.2.3.4;x=\", for=203.0.113.7",
            "for=1.2.3.4;x=\", for=\"[2001:db8::1]\"",
        ] {
            assert_eq!(element(value), malformed, "{value:?}");
        }
        assert_eq!(origin(&forwarding(ForwardedBy::XForwardedFor), ip("10.0.0.1"), [None].into_iter()), malformed);
        assert_eq!(of(ForwardedBy::Forwarded, "10.0.0.1", &[]), Origin::Unsaid(ip("10.0.0.1"), Unsaid::Missing));
    }

    #[test]
    fn elements_are_read_as_the_standard_writes_them() {
        let element = |values: &[&str]| of(ForwardedBy::Forwarded, "10.0.0.1", values);
        let asks = |address: &str| Origin::Forwarded(ip(address));
        // RFC 7239 4 and 7.1
        assert_eq!(element(&["for=192.0.2.43, for=\"[2001:db8:cafe::17]\""]), asks("2001:db8:cafe::17"));
        assert_eq!(element(&["For=\"[2001:db8:cafe::17]:4711\""]), asks("2001:db8:cafe::17"));
        assert_eq!(element(&["for=192.0.2.60;proto=http;by=203.0.113.43"]), asks("192.0.2.60"));
        assert_eq!(element(&["for=192.0.2.43", "for=198.51.100.17;by=x , FOR=10.9.9.9"]), asks("198.51.100.17"));
        assert_eq!(element(&["for=\"192.0.2.4\\3:80\";host=\"a,b;c\""]), asks("192.0.2.43"));
    }

    #[test]
    fn no_more_than_so_much_is_read_and_what_stands_beyond_does_no_harm() {
        let hops = |count: usize| format!("203.0.113.7, {}", vec!["10.0.0.2"; count].join(","));
        let list = |value: &str| of(ForwardedBy::XForwardedFor, "10.0.0.1", &[value]);
        assert_eq!(list(&hops(HOPS_MAX - 1)), Origin::Forwarded(ip("203.0.113.7")));
        assert_eq!(list(&hops(HOPS_MAX)), Origin::Unsaid(ip("10.0.0.1"), Unsaid::Malformed));
        assert_eq!(list(&format!("{},203.0.113.7", "x,".repeat(100_000))), Origin::Forwarded(ip("203.0.113.7")));
        assert_eq!(list(&"x".repeat(OCTETS_MAX + 1)), Origin::Unsaid(ip("10.0.0.1"), Unsaid::Malformed));
    }

    fn hop() -> impl Strategy<Value = String> {
        prop_oneof![
            (0_u8..=255, 0_u8..=255).prop_map(|(a, b)| format!("10.{a}.{b}.1")),
            any::<u32>().prop_map(|bits| std::net::Ipv4Addr::from_bits(bits).to_string()),
            any::<u128>().prop_map(|bits| format!("[{}]:80", std::net::Ipv6Addr::from_bits(bits))),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_written_nothing_breaks_and_no_address_comes_from_nowhere(values in prop::collection::vec("\\PC{0,60}|[0-9a-f.:,;=\"\\\\ \\[\\]for]{0,60}", 0..5)) {
            for by in ForwardedBy::ALL {
                let found = origin(&forwarding(*by), ip("10.0.0.1"), values.iter().map(|value| Some(value.as_str())));
                if let Origin::Unsaid(address, _) = found {
                    prop_assert_eq!(address, ip("10.0.0.1"));
                }
                prop_assert_eq!(origin(&forwarding(*by), ip("192.0.2.1"), values.iter().map(|value| Some(value.as_str()))), Origin::Peer(ip("192.0.2.1")));
            }
        }

        #[test]
        fn whatever_stands_to_the_left_of_the_first_stranger_changes_nothing(left in "\\PC{0,200}", stranger in 1_u32..0x0900_0000, right in 0_usize..10) {
            let stranger = std::net::Ipv4Addr::from_bits(stranger).to_string();
            let tail: String = (0..right).map(|_| ", 10.0.0.2").collect();
            let found = of(ForwardedBy::XForwardedFor, "10.0.0.1", &[&format!("{left},{stranger}{tail}")]);
            prop_assert_eq!(found, Origin::Forwarded(ip(&stranger)));
            let elements: String = (0..right).map(|_| ", for=10.0.0.2").collect();
            let found = of(ForwardedBy::Forwarded, "10.0.0.1", &[&left, &format!("for={stranger}{elements}")]);
            prop_assert_eq!(found, Origin::Forwarded(ip(&stranger)));
        }

        #[test]
        fn everybody_to_the_right_of_who_is_found_is_a_trusted_proxy(hops in prop::collection::vec(hop(), 1..12)) {
            let forwarding = forwarding(ForwardedBy::XForwardedFor);
            let list = hops.join(", ");
            let Origin::Forwarded(found) = origin(&forwarding, ip("10.0.0.1"), [Some(list.as_str())].into_iter()) else {
                panic!("every hop is an address");
            };
            let nodes: Vec<IpAddr> = hops.iter().filter_map(|hop| node(hop)).collect();
            let vouched = nodes.iter().rev().take_while(|address| forwarding.trusts(**address)).count();
            let expected = nodes.iter().rev().nth(vouched).or(nodes.first());
            prop_assert_eq!(Some(&found), expected);
        }
    }
}
