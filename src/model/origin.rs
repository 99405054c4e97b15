//! Where a request comes from, and which proxies are believed when they say so.

use std::net::IpAddr;

use ipnet::IpNet;

use super::key::words;

words! {
    /// In which header proxies say for whom they ask. Exactly one is believed: whoever writes the other is not heard.
    ForwardedBy, "a header of forwarding proxies" {
        /// The list of addresses that most proxies keep.
        XForwardedFor = "x-forwarded-for",
        /// RFC 7239.
        Forwarded = "forwarded",
    }
}

/// Whose word is taken for where a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The proxies that are believed; none: nobody is.
    pub trusted: Vec<IpNet>,
    /// The header they write.
    pub by: ForwardedBy,
}

impl Forwarding {
    /// Whether an address is one of a proxy that is believed.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From whoever opened the connection.
    Peer(IpAddr),
    /// From whom proxies that are believed ask for.
    Forwarded(IpAddr),
    /// From somebody behind this proxy, which is believed and does not say who it is, or says it in a way nobody can read.
    Unsaid(IpAddr, Unsaid),
}

/// What is wrong with what a proxy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsaid {
    /// It says nothing.
    Missing,
    /// It cannot be read, or names nobody.
    Malformed,
}

impl Origin {
    /// The address to count and to write down: of whoever asks, or else of the last one that is known.
    pub const fn address(self) -> IpAddr {
        match self {
            Self::Peer(address) | Self::Forwarded(address) | Self::Unsaid(address, _) => address,
        }
    }

    /// The address of whoever asks, where it is known: nothing is granted to anybody because of the proxy he came by.
    pub const fn known(self) -> Option<IpAddr> {
        match self {
            Self::Peer(address) | Self::Forwarded(address) => Some(address),
            Self::Unsaid(..) => None,
        }
    }
}
