//! Who has how many connections open.
//!
//! Owns the count by source: an address, of IPv6 the network of 64 bits that one holder is given as a whole. Trusted proxies are many in one and not
//! counted; what they pass on is limited by who it comes from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::http::throttle::source;
use crate::model::origin::Forwarding;

/// The connections that are open, by where they come from.
#[derive(Clone, Debug)]
pub(super) struct Crowd(Arc<Room>);

#[derive(Debug)]
struct Room {
    each_max: usize,
    forwarding: Forwarding,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection that is counted for as long as this lives.
#[derive(Debug)]
pub(super) struct Inside {
    room: Arc<Room>,
    source: Option<IpAddr>,
}

impl Crowd {
    pub(super) fn new(each_max: usize, forwarding: Forwarding) -> Self {
        Self(Arc::new(Room { each_max, forwarding, open: Mutex::default() }))
    }

    /// Counts one more; none when its source has as many as it may.
    pub(super) fn enter(&self, peer: IpAddr) -> Option<Inside> {
        let room = Arc::clone(&self.0);
        if room.forwarding.trusts(peer) {
            return Some(Inside { room, source: None });
        }
        let source = source(peer);
        {
            let mut open = room.open();
            let count = open.entry(source).or_insert(0);
            if *count >= room.each_max {
                return None;
            }
            *count += 1;
        }
        Some(Inside { room, source: Some(source) })
    }
}

impl Room {
    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let Some(source) = self.source else { return };
        let mut open = self.room.open();
        match open.get_mut(&source) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(open.remove(&source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::origin::ForwardedBy;

    #[test]
    fn a_source_has_so_many_places_and_gets_them_back_and_a_trusted_proxy_has_all() {
        let forwarding = Forwarding { trusted: vec!["10.0.0.0/8".parse().unwrap()], by: ForwardedBy::XForwardedFor };
        let crowd = Crowd::new(2, forwarding);
        let enter = |address: &str| crowd.enter(address.parse().unwrap());
        let (first, _second) = (enter("192.0.2.1").unwrap(), enter("::ffff:192.0.2.1").unwrap());
        assert!(enter("192.0.2.1").is_none() && enter("192.0.2.2").is_some());
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        let _network = (enter("2001:db8::1").unwrap(), enter("2001:db8::2").unwrap());
        assert!(enter("2001:db8::3").is_none() && enter("2001:db8:0:1::3").is_some());
        let proxied: Vec<_> = (0..5).map(|_| enter("10.0.0.7")).collect();
        assert!(proxied.iter().all(Option::is_some));
    }

    #[test]
    fn nothing_is_remembered_of_who_is_gone() {
        let crowd = Crowd::new(2, Forwarding { trusted: Vec::new(), by: ForwardedBy::XForwardedFor });
        for number in 0..1000_u32 {
            drop(crowd.enter(std::net::Ipv4Addr::from_bits(number).into()).unwrap());
        }
        assert!(crowd.0.open().is_empty());
    }
}
