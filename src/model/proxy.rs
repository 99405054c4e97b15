//! The proxy of a deployment through which its requests leave, and what goes past it.

use std::fmt;

use ipnet::IpNet;
use url::Host;
use zeroize::Zeroizing;

/// An HTTP proxy that is asked for tunnels (RFC 9110 9.3.6).
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Where it is.
    pub host: Host<String>,
    /// Its port.
    pub port: u16,
    /// What it is told about us.
    pub credentials: Option<Credentials>,
    /// What is reached without it.
    pub past: Vec<Past>,
}

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name, without a colon (RFC 7617 2).
    pub name: String,
    /// The password.
    pub password: Zeroizing<String>,
}

/// What is reached without the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Past {
    /// URLs with a literal address in this network. What a name resolves to is not known where the proxy resolves it.
    Network(IpNet),
    /// This name.
    Name(String),
    /// Every name under this one.
    Under(String),
}

impl fmt::Display for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Under(name) => write!(f, ".{name}"),
        }
    }
}

impl fmt::Display for Proxy {
    /// The URL without its credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("url", &self.to_string()).field("past", &self.past).finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}
