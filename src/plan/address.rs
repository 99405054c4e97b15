//! Which addresses and URLs may be reached.
//!
//! Owns the address rule, its exceptions and what a logout URI must look like. Never resolves a name and never connects: `egress` asks here before
//! resolution, after resolution and once more after the answer.
//!
//! Why an allow-list: every guard that began with a list of bad networks was passed through the one it forgot (mapped and compatible forms, 6to4,
//! Teredo, NAT64, shared address space). So IPv4 must be globally routable, IPv6 must be global unicast, and a form that only wraps an IPv4 address is
//! judged as that address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use url::{Host, Url};

use crate::model::client::Network;
use crate::model::proxy::Past;

/// The longest URL that is reached, in octets.
pub const URL_OCTETS_MAX: usize = 2048;

/// The longest name that DNS can hold, in octets as text.
const NAME_OCTETS_MAX: usize = 253;

/// The ports reached unless configuration says otherwise: the one of `https` and those that no privileged service listens on.
pub const PORTS_DEFAULT: [RangeInclusive<u16>; 2] = [443..=443, 1024..=65535];

/// How strict the deployment is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `https` alone, public addresses and the configured exceptions.
    #[default]
    Production,
    /// For a developer's own machine: `http`, every port and loopback as well.
    Development,
}

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// 0.0.0.0/8 and `::`, which connect to this very host.
    Unspecified,
    /// 127.0.0.0/8 and `::1`.
    Loopback,
    /// 169.254.0.0/16 and `fe80::/10`.
    LinkLocal,
    /// A cloud's metadata service, which hands out credentials.
    Metadata,
    /// Private and site-local networks (RFC 1918, RFC 4193, RFC 3879).
    Private,
    /// Shared address space behind a carrier's NAT (RFC 6598).
    Shared,
    /// More than one receiver.
    Multicast,
    /// Networks that only documents may use (RFC 5737, RFC 3849, RFC 9637).
    Documentation,
    /// 6to4, Teredo and IPv4-compatible forms, which smuggle an IPv4 address past a list.
    Transition,
    /// Anything else that is not globally routable.
    Reserved,
}

impl Forbidden {
    /// No exception reaches these: either credentials live there, or nobody's receiver does.
    const fn for_ever(self) -> bool {
        match self {
            Self::Unspecified | Self::LinkLocal | Self::Metadata | Self::Multicast | Self::Transition => true,
            Self::Loopback | Self::Private | Self::Shared | Self::Documentation | Self::Reserved => false,
        }
    }

    /// What the address is, to stand after "is".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "an unspecified address",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a metadata service",
            Self::Private => "a private address",
            Self::Shared => "in shared address space",
            Self::Multicast => "a multicast address",
            Self::Documentation => "a documentation address",
            Self::Transition => "an IPv4 address wrapped for a tunnel",
            Self::Reserved => "not a globally routable address",
        }
    }
}

impl std::fmt::Display for Forbidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Judges one address: public, or inside an exception, or forbidden.
pub fn judge(address: IpAddr, allow: &[IpNet]) -> Result<(), Forbidden> {
    let address = unwrapped(address);
    let verdict = match address {
        IpAddr::V4(v4) => judge_v4(v4),
        IpAddr::V6(v6) => judge_v6(v6),
    };
    match verdict {
        Err(why) if !why.for_ever() && allow.iter().any(|network| network.contains(&address)) => Ok(()),
        verdict => verdict,
    }
}

/// The IPv4 address inside a mapped (RFC 4291 2.5.5.2) or NAT64 (RFC 6052 2.1) form: the network in between takes it out, so it is what is reached.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        _ => address,
    }
}

fn judge_v4(address: Ipv4Addr) -> Result<(), Forbidden> {
    Err(match address.octets() {
        // Alibaba, Azure and Oracle; the others use 169.254.169.254.
        [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192] => Forbidden::Metadata,
        [0, ..] => Forbidden::Unspecified,
        [127, ..] => Forbidden::Loopback,
        [169, 254, ..] => Forbidden::LinkLocal,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Forbidden::Private,
        [100, 64..=127, ..] => Forbidden::Shared,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Forbidden::Documentation,
        [192, 88, 99, _] => Forbidden::Transition,
        [192, 0, 0, _] | [198, 18..=19, ..] | [240..=255, ..] => Forbidden::Reserved,
        [224..=239, ..] => Forbidden::Multicast,
        _ => return Ok(()),
    })
}

fn judge_v6(address: Ipv6Addr) -> Result<(), Forbidden> {
    Err(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Forbidden::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Forbidden::Loopback,
        [0, 0, 0, 0, 0, 0, _, _] | [0x2002, ..] | [0x2001, 0, ..] => Forbidden::Transition,
        // Amazon's metadata and credential services, Google's metadata service.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254 | 0x23] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Forbidden::Metadata,
        [0xfe80..=0xfebf, ..] => Forbidden::LinkLocal,
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => Forbidden::Private,
        [0xff00..=0xffff, ..] => Forbidden::Multicast,
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] => Forbidden::Documentation,
        [0x2001, 0..=0x1ff, ..] => Forbidden::Reserved,
        [0x2000..=0x3fff, ..] => return Ok(()),
        _ => Forbidden::Reserved,
    })
}

/// Checks that every requested exception lies inside the deployment's ceiling; the error is the first that does not.
///
/// A network that could never make a difference is refused as well, so that nobody believes in it: one of addresses that no exception reaches, or one
/// that writes IPv4 in a wrapped form.
pub fn within_ceiling(requested: &[IpNet], ceiling: &[IpNet]) -> Result<(), IpNet> {
    match requested.iter().find(|network| !ceiling.iter().any(|above| above.contains(*network)) || is_void(network)) {
        Some(network) => Err(*network),
        None => Ok(()),
    }
}

fn is_void(network: &IpNet) -> bool {
    let (first, last) = (network.network(), network.broadcast());
    let wraps = unwrapped(first) != first;
    let closed = |address| judge(address, &[]).err().filter(|why| why.for_ever());
    wraps || (closed(first).is_some() && closed(first) == closed(last))
}

/// What applies to a client: its issuer's exceptions and its own.
pub fn effective(issuer: &Network, client: &Network) -> Network {
    let mut allow: Vec<IpNet> = issuer.allow.iter().chain(&client.allow).copied().collect();
    allow.sort_unstable();
    allow.dedup();
    let ca_pem = match (&issuer.ca_pem, &client.ca_pem) {
        (Some(issuer), Some(client)) if issuer != client => Some(format!("{}\n{client}", issuer.trim_end())),
        (issuer, client) => client.as_ref().or(issuer.as_ref()).cloned(),
    };
    Network { allow, ca_pem }
}

/// Whether a host is reached without the proxy.
pub fn is_past_proxy(host: &Host<&str>, past: &[Past]) -> bool {
    let address = match host {
        Host::Domain(_) => None,
        Host::Ipv4(address) => Some(unwrapped(IpAddr::from(*address))),
        Host::Ipv6(address) => Some(unwrapped(IpAddr::from(*address))),
    };
    past.iter().any(|past| match (past, host) {
        (Past::Network(network), _) => address.is_some_and(|address| network.contains(&address)),
        (Past::Name(known), Host::Domain(name)) => name == known,
        (Past::Under(parent), Host::Domain(name)) => {
            name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        }
        (Past::Name(_) | Past::Under(_), Host::Ipv4(_) | Host::Ipv6(_)) => false,
    })
}

/// What one deployment lets one client reach.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// How strict the deployment is.
    pub mode: Mode,
    /// The client's exceptions, already inside the ceiling.
    pub allow: &'a [IpNet],
    /// The ports that may be reached.
    pub ports: &'a [RangeInclusive<u16>],
}

impl Policy<'_> {
    /// Judges one address, as [`judge`] does; a developer's machine may also reach itself.
    pub fn judge(&self, address: IpAddr) -> Result<(), Forbidden> {
        match judge(address, self.allow) {
            Err(Forbidden::Loopback) if self.mode == Mode::Development => Ok(()),
            verdict => verdict,
        }
    }

    fn judge_port(&self, port: u16) -> Result<(), BadUrl> {
        let open = match self.mode {
            Mode::Development => port != 0,
            Mode::Production => self.ports.iter().any(|range| range.contains(&port)),
        };
        if open { Ok(()) } else { Err(BadUrl::Port(port)) }
    }
}

/// What is wrong with a URL. The texts are for whoever registered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Longer than [`URL_OCTETS_MAX`].
    #[error("must not be longer than {URL_OCTETS_MAX} octets")]
    TooLong,
    /// Not an absolute URL, or one that other parsers would read differently.
    #[error("must be an absolute URL, without spaces, control characters and backslashes")]
    Malformed,
    /// Another scheme than the mode allows.
    #[error("must be an https URL")]
    Scheme,
    /// Credentials in the URL.
    #[error("must not carry a user name or password")]
    UserInfo,
    /// A fragment.
    #[error("must not have a fragment")]
    Fragment,
    /// No host, or a name that DNS cannot hold.
    #[error("must name a host")]
    Host,
    /// A second spelling of a name, which would pass for another receiver.
    #[error("must not end its host with a dot")]
    TrailingDot,
    /// A name that means this very host.
    #[error("must not name this host itself, but by its address")]
    LocalName,
    /// A port outside the list.
    #[error("must not use port {0}")]
    Port(u16),
    /// A literal address outside the rule.
    #[error("must not name {address}, which is {why}")]
    Address {
        /// The address, however it was spelled.
        address: IpAddr,
        /// What it is.
        why: Forbidden,
    },
}

impl BadUrl {
    /// The network of an exception that would let it be reached, where one would.
    pub fn exception(&self) -> Option<IpNet> {
        match self {
            Self::Address { address, why } if !why.for_ever() => Some(unwrapped(*address).into()),
            Self::LocalName
            | Self::Address { .. }
            | Self::TooLong
            | Self::Malformed
            | Self::Scheme
            | Self::UserInfo
            | Self::Fragment
            | Self::Host
            | Self::TrailingDot
            | Self::Port(_) => None,
        }
    }
}

/// Reads a URL as somebody registers it; [`check_url`] then decides whether it may be reached.
pub fn parse_url(text: &str) -> Result<Url, BadUrl> {
    if text.len() > URL_OCTETS_MAX {
        return Err(BadUrl::TooLong);
    }
    // The parser would drop tabs and line ends, turn backslashes round and supply missing slashes: what is stored must be what was meant.
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '\\';
    match Url::parse(text) {
        Ok(url) if text.contains("://") && text.chars().all(plain) => Ok(url),
        _ => Err(BadUrl::Malformed),
    }
}

/// Decides whether a URL may be reached, as far as that can be told without resolving its name.
///
/// A resolver is never asked about a literal address, so this check is needed before every request and not only at registration.
pub fn check_url(url: &Url, policy: &Policy<'_>) -> Result<(), BadUrl> {
    if url.as_str().len() > URL_OCTETS_MAX {
        return Err(BadUrl::TooLong);
    }
    match (url.scheme(), policy.mode) {
        ("https", _) | ("http", Mode::Development) => {}
        _ => return Err(BadUrl::Scheme),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BadUrl::UserInfo);
    }
    // BCL 2.2: the URI has no fragment component.
    if url.fragment().is_some() {
        return Err(BadUrl::Fragment);
    }
    let literal = |address: IpAddr| policy.judge(address).map_err(|why| BadUrl::Address { address, why });
    match url.host().ok_or(BadUrl::Host)? {
        // The parser has already turned every numeric spelling (decimal, octal, hexadecimal, shortened, full-width) into these two.
        Host::Ipv4(address) => literal(address.into())?,
        Host::Ipv6(address) => literal(address.into())?,
        Host::Domain(name) => check_name(name, policy.mode)?,
    }
    policy.judge_port(url.port_or_known_default().unwrap_or(0))
}

fn check_name(name: &str, mode: Mode) -> Result<(), BadUrl> {
    let local = name == "localhost" || name.ends_with(".localhost");
    match mode {
        _ if name.is_empty() || name.len() > NAME_OCTETS_MAX => Err(BadUrl::Host),
        _ if name.ends_with('.') => Err(BadUrl::TrailingDot),
        Mode::Production if local => Err(BadUrl::LocalName),
        Mode::Production | Mode::Development => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule once more, as a list of networks instead of patterns: what IANA does not call globally reachable.
    const NOT_PUBLIC_V4: [&str; 17] = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "255.255.255.255/32",
    ];

    /// All of IPv6 but global unicast, and the holes in that.
    const NOT_PUBLIC_V6: [&str; 11] = [
        "::/3",
        "4000::/2",
        "8000::/1",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    ];

    const NEVER: [&str; 12] = [
        "169.254.0.0",
        "169.254.169.254",
        "169.254.255.255",
        "100.100.100.200",
        "fe80::1",
        "febf::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "::ffff:100.100.100.200",
        "0.0.0.0",
    ];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn listed(lists: &[&str], address: IpAddr) -> bool {
        nets(lists).iter().any(|network| network.contains(&address))
    }

    fn policy(mode: Mode, allow: &[IpNet]) -> Policy<'_> {
        Policy { mode, allow, ports: &PORTS_DEFAULT }
    }

    fn check(text: &str) -> Result<(), BadUrl> {
        check_in(Mode::Production, text)
    }

    fn check_in(mode: Mode, text: &str) -> Result<(), BadUrl> {
        check_url(&parse_url(text)?, &policy(mode, &[]))
    }

    fn mapped(v4: Ipv4Addr) -> IpAddr {
        v4.to_ipv6_mapped().into()
    }

    fn nat64(v4: Ipv4Addr) -> IpAddr {
        let [.., high, low] = v4.to_ipv6_mapped().segments();
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into()
    }

    #[test]
    fn what_goes_past_the_proxy_is_named_exactly() {
        let past = [
            Past::Network("10.0.0.0/8".parse().unwrap()),
            Past::Network("fd00::/8".parse().unwrap()),
            Past::Name("wiki.internal".to_owned()),
            Past::Under("corp.example".to_owned()),
        ];
        for (host, expected) in [
            ("10.1.2.3", true),
            ("[::ffff:10.1.2.3]", true),
            ("[fd00::1]", true),
            ("11.0.0.1", false),
            ("wiki.internal", true),
            ("a.wiki.internal", false),
            ("wiki.internal.example", false),
            ("a.corp.example", true),
            ("a.b.corp.example", true),
            ("corp.example", false),
            ("evilcorp.example", false),
        ] {
            let url = Url::parse(&format!("https://{host}/")).unwrap();
            assert_eq!(is_past_proxy(&url.host().unwrap(), &past), expected, "{host}");
        }
        assert!(!is_past_proxy(&Host::Domain("wiki.internal"), &[]));
    }

    #[test]
    fn the_edges_of_every_ipv4_network_are_judged_like_its_middle() {
        for network in nets(&NOT_PUBLIC_V4) {
            assert!(judge(network.network(), &[]).is_err() && judge(network.broadcast(), &[]).is_err(), "{network}");
        }
        for public in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "8.8.8.8",
        ] {
            assert_eq!(judge(ip(public), &[]), Ok(()), "{public}");
        }
    }

    #[test]
    fn the_edges_of_every_ipv6_network_are_judged_like_its_middle() {
        for network in nets(&NOT_PUBLIC_V6) {
            assert!(judge(network.network(), &[]).is_err() && judge(network.broadcast(), &[]).is_err(), "{network}");
        }
        for public in ["2000::1", "2001:200::1", "2001:db7::1", "2001:db9::1", "2003::1", "2606:4700::1", "3ffe::1", "3fff:1000::1"] {
            assert_eq!(judge(ip(public), &[]), Ok(()), "{public}");
        }
        for (wrapped, why) in [
            ("::ffff:127.0.0.1", Forbidden::Loopback),
            ("::ffff:7f00:1", Forbidden::Loopback),
            ("::127.0.0.1", Forbidden::Transition),
            ("64:ff9b::7f00:1", Forbidden::Loopback),
            ("64:ff9b::10.0.0.1", Forbidden::Private),
            ("64:ff9b:1::8.8.8.8", Forbidden::Reserved),
            ("::ffff:0:8.8.8.8", Forbidden::Reserved),
            ("2002:7f00:1::", Forbidden::Transition),
            ("2002:808:808::", Forbidden::Transition),
            ("2001:0:808:808::", Forbidden::Transition),
            ("fec0::1", Forbidden::Private),
            ("fd12::1", Forbidden::Private),
        ] {
            assert_eq!(judge(ip(wrapped), &[]), Err(why), "{wrapped}");
        }
        assert_eq!(judge(ip("64:ff9b::8.8.8.8"), &[]), Ok(()));
    }

    #[test]
    fn no_exception_reaches_link_local_or_metadata_addresses() {
        let everything = nets(&["0.0.0.0/0", "::/0", "169.254.0.0/16", "fe80::/10", "100.100.100.200/32", "fd00:ec2::254/128"]);
        for address in NEVER {
            assert!(judge(ip(address), &everything).is_err(), "{address}");
            assert!(policy(Mode::Development, &everything).judge(ip(address)).is_err(), "{address}");
        }
    }

    #[test]
    fn an_exception_reaches_its_own_network_in_every_form_and_nothing_beside_it() {
        let allow = nets(&["10.1.0.0/16", "fd12::/16"]);
        for reached in ["10.1.0.1", "::ffff:10.1.0.1", "64:ff9b::10.1.0.1", "fd12::1", "8.8.8.8"] {
            assert_eq!(judge(ip(reached), &allow), Ok(()), "{reached}");
        }
        for refused in ["10.2.0.1", "::ffff:10.2.0.1", "127.0.0.1", "fd13::1", "::10.1.0.1", "2002:a01:1::"] {
            assert!(judge(ip(refused), &allow).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_developers_machine_reaches_itself_and_no_other_private_address() {
        let developer = policy(Mode::Development, &[]);
        for own in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(developer.judge(ip(own)), Ok(()), "{own}");
        }
        for other in ["10.0.0.1", "0.0.0.0", "192.168.1.1", "fd00::1"] {
            assert!(developer.judge(ip(other)).is_err(), "{other}");
        }
    }

    #[test]
    fn an_exception_must_lie_inside_the_ceiling() {
        let ceiling = nets(&["10.0.0.0/8", "192.168.4.0/24", "fd00::/8"]);
        assert_eq!(within_ceiling(&nets(&["10.0.0.0/8", "10.2.3.4/32", "fd12::/16"]), &ceiling), Ok(()));
        assert_eq!(within_ceiling(&[], &[]), Ok(()));
        for (outside, ceiling) in [
            ("0.0.0.0/0", &ceiling),
            ("10.0.0.0/7", &ceiling),
            ("192.168.0.0/16", &ceiling),
            ("::/0", &ceiling),
            ("10.0.0.0/8", &vec![]),
            ("fd00:ec2::254/128", &ceiling),
        ] {
            let outside: IpNet = outside.parse().unwrap();
            assert_eq!(within_ceiling(&[outside], ceiling), Err(outside));
        }
    }

    #[test]
    fn an_exception_that_could_not_make_a_difference_is_refused_under_any_ceiling() {
        let everything = nets(&["0.0.0.0/0", "::/0"]);
        for void in ["169.254.0.0/16", "169.254.169.254/32", "fe80::/64", "::ffff:10.0.0.0/104", "64:ff9b::/96", "2002::/16", "224.0.0.0/4"]
        {
            let void: IpNet = void.parse().unwrap();
            assert_eq!(within_ceiling(&[void], &everything), Err(void));
        }
        assert_eq!(within_ceiling(&everything, &everything), Ok(()));
    }

    #[test]
    fn a_client_has_its_issuers_exceptions_and_its_own_once_each() {
        let issuer = Network { allow: nets(&["10.2.0.0/16", "10.1.0.0/16"]), ca_pem: Some("A\n".into()) };
        let client = Network { allow: nets(&["10.1.0.0/16", "10.0.0.0/16"]), ca_pem: Some("B\n".into()) };
        let both = Network { allow: nets(&["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16"]), ca_pem: Some("A\nB\n".into()) };
        assert_eq!(effective(&issuer, &client), both);
        assert_eq!(effective(&issuer, &Network::default()).ca_pem.as_deref(), Some("A\n"));
        assert_eq!(effective(&client, &client).ca_pem.as_deref(), Some("B\n"));
    }

    #[test]
    fn loopback_is_refused_in_every_spelling() {
        for host in [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "0177.1",
            "127.0.0.1.",
            "%31%32%37.0.0.1",
            "１２７.０.０.１",
            "127。0。0。1",
            "0",
            "0.0.0.0",
            "[::1]",
            "[::]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:0x7f.1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[2001:0:7f00:1::]",
            "[fec0::1]",
            "[fe80::1%25eth0]",
            "[fe80::1]",
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "10.0.0.1",
            "[fd00:ec2::254]",
        ] {
            let verdict = check(&format!("https://{host}/logout"));
            assert!(matches!(verdict, Err(BadUrl::Address { .. } | BadUrl::Malformed)), "{host}: {verdict:?}");
        }
    }

    #[test]
    fn tricks_with_the_rest_of_the_url_do_not_move_the_host() {
        for (url, why) in [
            ("https://rp.example@127.0.0.1/", BadUrl::UserInfo),
            ("https://user:pass@rp.example/", BadUrl::UserInfo),
            ("https://:pass@rp.example/", BadUrl::UserInfo),
            ("https://rp.example/#", BadUrl::Fragment),
            ("https://rp.example/#127.0.0.1", BadUrl::Fragment),
            ("https://rp.example\\@127.0.0.1/", BadUrl::Malformed),
            ("https://rp.exam\tple/", BadUrl::Malformed),
            ("https://rp.example/\n", BadUrl::Malformed),
            (" https://rp.example/", BadUrl::Malformed),
            ("https:rp.example", BadUrl::Malformed),
            ("//rp.example/", BadUrl::Malformed),
            ("/logout", BadUrl::Malformed),
            ("https://", BadUrl::Malformed),
            ("http://rp.example/", BadUrl::Scheme),
            ("ftp://rp.example/", BadUrl::Scheme),
            ("file:///etc/passwd", BadUrl::Scheme),
            ("https://rp.example./", BadUrl::TrailingDot),
            ("https://localhost./", BadUrl::TrailingDot),
            ("https://localhost/", BadUrl::LocalName),
            ("https://LOCALHOST/", BadUrl::LocalName),
            ("https://rp.localhost/", BadUrl::LocalName),
            ("https://rp.example:22/", BadUrl::Port(22)),
            ("https://rp.example:80/", BadUrl::Port(80)),
            ("https://rp.example:0/", BadUrl::Port(0)),
        ] {
            assert_eq!(check(url), Err(why), "{url:?}");
        }
        assert_eq!(check(&format!("https://rp.example/{}", "a".repeat(URL_OCTETS_MAX))), Err(BadUrl::TooLong));
        assert_eq!(check(&format!("https://{}rp.example/", "a.".repeat(200))), Err(BadUrl::Host));
    }

    #[test]
    fn an_ordinary_logout_uri_is_accepted() {
        for url in [
            "https://rp.example/logout",
            "https://rp.example:8443/logout?tenant=a%20b",
            "https://rp/",
            "https://bücher.example/",
            "https://8.8.8.8/",
            "https://[2606:4700::1]:4430/x",
            "https://mylocalhost/",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn a_developers_machine_may_use_http_any_port_and_its_own_name() {
        for url in ["http://localhost:80/x", "http://127.0.0.1:81/", "http://[::1]:3000/", "http://rp.localhost:22/", "https://rp.example/"]
        {
            assert_eq!(check_in(Mode::Development, url), Ok(()), "{url}");
        }
        for url in ["http://10.0.0.1/", "http://169.254.169.254/", "ftp://localhost/", "http://localhost:0/", "http://u@localhost/"] {
            assert!(check_in(Mode::Development, url).is_err(), "{url}");
        }
    }

    fn any_network() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<u32>(), 0u8..=32).prop_map(|(bits, length)| IpNet::new(Ipv4Addr::from_bits(bits).into(), length).unwrap().trunc()),
            (any::<u128>(), 0u8..=128).prop_map(|(bits, length)| IpNet::new(Ipv6Addr::from_bits(bits).into(), length).unwrap().trunc()),
        ]
    }

    /// Uniform addresses would hardly ever fall into the small networks, so half of them are drawn from there.
    fn any_v4() -> impl Strategy<Value = Ipv4Addr> {
        let near = (0..NOT_PUBLIC_V4.len(), any::<u32>()).prop_map(|(at, bits)| match nets(&NOT_PUBLIC_V4)[at] {
            IpNet::V4(network) => Ipv4Addr::from_bits(network.network().to_bits() | bits & network.hostmask().to_bits()),
            IpNet::V6(_) => unreachable!(),
        });
        prop_oneof![any::<u32>().prop_map(Ipv4Addr::from_bits), near]
    }

    fn any_v6() -> impl Strategy<Value = Ipv6Addr> {
        prop_oneof![
            any::<u128>().prop_map(Ipv6Addr::from_bits),
            (0x2000u128..0x4000, any::<u128>()).prop_map(|(first, rest)| Ipv6Addr::from_bits(first << 112 | rest >> 16)),
            (0x2001_0000u128..0x2003_0000, any::<u128>()).prop_map(|(first, rest)| Ipv6Addr::from_bits(first << 96 | rest >> 32)),
        ]
    }

    proptest! {
        #[test]
        fn an_ipv4_address_is_public_exactly_when_no_listed_network_holds_it(v4 in any_v4()) {
            prop_assert_eq!(judge(v4.into(), &[]).is_err(), listed(&NOT_PUBLIC_V4, v4.into()));
        }

        #[test]
        fn an_ipv6_address_is_public_exactly_when_no_listed_network_holds_it(v6 in any_v6()) {
            prop_assume!(unwrapped(v6.into()) == IpAddr::V6(v6));
            prop_assert_eq!(judge(v6.into(), &[]).is_err(), listed(&NOT_PUBLIC_V6, v6.into()));
        }

        #[test]
        fn a_wrapped_address_is_judged_as_the_address_inside(v4 in any_v4(), allow in prop::collection::vec(any_network(), 0..4)) {
            let plain = judge(v4.into(), &allow);
            prop_assert_eq!(judge(mapped(v4), &allow), plain);
            prop_assert_eq!(judge(nat64(v4), &allow), plain);
        }

        #[test]
        fn an_exception_opens_only_what_it_holds(v4 in any_v4(), v6 in any_v6(), allow in prop::collection::vec(any_network(), 0..4)) {
            for address in [IpAddr::V4(v4), IpAddr::V6(v6)] {
                let held = allow.iter().any(|network| network.contains(&unwrapped(address)));
                prop_assert!(judge(address, &allow).is_err() || judge(address, &[]).is_ok() || held);
                prop_assert!(judge(address, &allow).is_ok() || judge(address, &[]).is_err());
            }
        }

        #[test]
        fn every_spelling_of_an_ipv4_address_gets_the_same_verdict(v4 in any_v4()) {
            let verdict = judge(v4.into(), &[]).is_ok();
            let [a, b, c, d] = v4.octets();
            let bits = v4.to_bits();
            let [.., high, low] = v4.to_ipv6_mapped().segments();
            for host in [
                v4.to_string(),
                bits.to_string(),
                format!("{bits:#x}"),
                format!("0{bits:o}"),
                format!("{a:#x}.{b}.0{c:o}.{d}"),
                format!("{a}.{}", bits & 0x00ff_ffff),
                format!("{a}.{b}.{}", bits & 0xffff),
                format!("{v4}."),
                format!("[::ffff:{v4}]"),
                format!("[::ffff:{high:x}:{low:x}]"),
                format!("[0:0:0:0:0:FFFF:{high:04X}:{low:04X}]"),
                format!("[64:ff9b::{v4}]"),
            ] {
                let seen = check(&format!("https://{host}/"));
                prop_assert_eq!(seen.is_ok(), verdict, "{}: {:?}", host, seen);
            }
        }

        #[test]
        fn no_text_panics_and_what_passes_has_no_forbidden_literal(text in "(https?://)?[-0-9a-fx.:@\\[\\]%#?/\\\\ ]{0,24}") {
            if let Ok(url) = parse_url(&text) && check_url(&url, &policy(Mode::Production, &[])).is_ok() {
                prop_assert_eq!(url.scheme(), "https");
                let public = match url.host() {
                    Some(Host::Ipv4(v4)) => judge(v4.into(), &[]).is_ok(),
                    Some(Host::Ipv6(v6)) => judge(v6.into(), &[]).is_ok(),
                    Some(Host::Domain(name)) => name.parse::<IpAddr>().is_err(),
                    None => false,
                };
                prop_assert!(public, "{}", url);
            }
        }
    }
}
