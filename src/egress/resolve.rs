//! Names into addresses, all of them judged before the first connection.
//!
//! Owns look-ups and their limits. Never caches: a connection goes to the very addresses that were judged, and the next connection asks again.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use url::Host;

use super::pool::{Guard, Seen};
use crate::plan::address::Forbidden;

/// How many names may be looked up at once. The system's resolver blocks a thread for as long as it likes (30 s for a dead name server), also when
/// nobody waits any more; a name that is being looked up is not looked up again beside it.
const LOOKUPS_MAX: usize = 64;

/// Where names are looked up.
#[derive(Clone, Debug, Default)]
pub enum Names {
    /// By the operating system.
    #[default]
    System,
    /// In a table that can be changed at any time; what it lacks does not exist.
    Fixed(FixedNames),
}

/// A table of names, shared by its clones.
#[derive(Clone, Debug, Default)]
pub struct FixedNames(Arc<Mutex<HashMap<String, Vec<IpAddr>>>>);

impl FixedNames {
    /// Gives a name its addresses from now on.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        locked(&self.0).insert(name.to_owned(), addresses.to_vec());
    }

    fn find(&self, name: &str) -> Result<Arc<[IpAddr]>, NameError> {
        locked(&self.0).get(name).map(|addresses| addresses.as_slice().into()).ok_or(NameError::NotFound)
    }
}

/// Why a name led nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NameError {
    #[error("the name does not resolve")]
    NotFound,
    #[error("resolving the name took too long")]
    TooSlow,
    #[error("too many names are being resolved")]
    Busy,
    #[error("the name resolves to {address}, which is {why}")]
    Forbidden { address: IpAddr, why: Forbidden },
    #[error("only the proxy's name is resolved here")]
    NotTheProxy,
}

/// What is looked up when the client asks for a name.
pub(super) enum Wanted {
    /// That name.
    AsAsked,
    /// This host, which only proves that name.
    Instead(Host<String>),
    /// The proxy's name and no other. Whoever configured the proxy vouches for its addresses, which are private nearly always.
    Proxy(Host<String>, Arc<Seen>),
}

/// Answers with the addresses of a name only if every one of them may be reached: a name that mixes public and private addresses is an attempt to
/// have the wrong one chosen.
pub(super) struct GuardedResolver {
    pub(super) guard: Arc<Guard>,
    pub(super) lookups: Arc<Lookups>,
    pub(super) wanted: Arc<Wanted>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, lookups, wanted) = (Arc::clone(&self.guard), Arc::clone(&self.lookups), Arc::clone(&self.wanted));
        Box::pin(async move {
            let found = find(&wanted, &lookups, &guard, name.as_str()).await?;
            let addresses: Vec<SocketAddr> = found.iter().map(|address| SocketAddr::new(*address, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

async fn find(wanted: &Wanted, lookups: &Lookups, guard: &Guard, name: &str) -> Found {
    let found = match wanted {
        Wanted::AsAsked => lookups.find(name).await?,
        Wanted::Instead(Host::Domain(instead)) => lookups.find(instead).await?,
        Wanted::Instead(Host::Ipv4(address)) => Arc::from([IpAddr::from(*address)]),
        Wanted::Instead(Host::Ipv6(address)) => Arc::from([IpAddr::from(*address)]),
        Wanted::Proxy(Host::Domain(proxy), seen) if proxy == name => {
            let found = lookups.find(proxy).await?;
            seen.remember(&found);
            return Ok(found);
        }
        Wanted::Proxy(..) => return Err(NameError::NotTheProxy),
    };
    for address in found.iter().copied() {
        guard.policy().judge(address).map_err(|why| NameError::Forbidden { address, why })?;
    }
    Ok(found)
}

type Found = Result<Arc<[IpAddr]>, NameError>;
type Lookup = Shared<BoxFuture<'static, Found>>;

/// The look-ups under way, bounded in number and in time.
pub(super) struct Lookups {
    names: Names,
    patience: Duration,
    slots: Arc<Semaphore>,
    running: Arc<Running>,
}

#[derive(Default)]
struct Running(Mutex<HashMap<String, Lookup>>);

impl Lookups {
    pub(super) fn new(names: Names, patience: Duration) -> Self {
        Self { names, patience, slots: Arc::new(Semaphore::new(LOOKUPS_MAX)), running: Arc::default() }
    }

    async fn find(&self, name: &str) -> Found {
        let found = match &self.names {
            Names::Fixed(table) => table.find(name)?,
            Names::System => self.shared(name, look_up).await?,
        };
        if found.is_empty() { Err(NameError::NotFound) } else { Ok(found) }
    }

    /// Joins the look-up of this name if there is one, else begins it when a slot is free.
    async fn shared(&self, name: &str, look_up: impl FnOnce(&str) -> Found + Send + 'static) -> Found {
        let deadline = Instant::now() + self.patience;
        let known = self.running.join(name);
        let running = match known {
            Some(running) => running,
            None => match timeout_at(deadline, Arc::clone(&self.slots).acquire_owned()).await {
                Ok(Ok(slot)) => self.running.begin(name, move |name| {
                    let found = look_up(name);
                    drop(slot);
                    found
                }),
                Ok(Err(_)) | Err(_) => return Err(NameError::Busy),
            },
        };
        timeout_at(deadline, running).await.unwrap_or(Err(NameError::TooSlow))
    }
}

impl Running {
    fn join(&self, name: &str) -> Option<Lookup> {
        locked(&self.0).get(name).cloned()
    }

    fn begin(self: &Arc<Self>, name: &str, work: impl FnOnce(&str) -> Found + Send + 'static) -> Lookup {
        let mut running = locked(&self.0);
        if let Some(other) = running.get(name) {
            return other.clone();
        }
        let (this, key) = (Arc::clone(self), name.to_owned());
        // The thread itself clears the entry, whether anybody still waits or not, so that no answer is kept for later.
        let thread = tokio::task::spawn_blocking(move || {
            let found = work(&key);
            locked(&this.0).remove(&key);
            found
        });
        let shared = thread.map(|joined| joined.unwrap_or(Err(NameError::Busy))).boxed().shared();
        running.insert(name.to_owned(), shared.clone());
        shared
    }
}

fn look_up(name: &str) -> Found {
    match (name, 0).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.map(|address| address.ip()).collect()),
        Err(error) if super::outcome::is_ours(&error) => Err(NameError::Busy),
        Err(_) => Err(NameError::NotFound),
    }
}

/// A panic elsewhere leaves these maps whole: each change is one call.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;

    use super::*;

    /// A name server that answers once it is opened.
    #[derive(Default)]
    struct Server(Mutex<bool>, Condvar);

    impl Server {
        fn answer(self: &Arc<Self>) -> impl FnOnce(&str) -> Found + Send + 'static {
            let this = Arc::clone(self);
            move |_| {
                drop(this.1.wait_while(locked(&this.0), |open| !*open).unwrap());
                alive("")
            }
        }

        fn open(&self) {
            *locked(&self.0) = true;
            self.1.notify_all();
        }
    }

    /// A blocked thread would keep the test's runtime from ending.
    impl Drop for Opener {
        fn drop(&mut self) {
            self.0.open();
        }
    }
    struct Opener(Arc<Server>);

    #[expect(clippy::unnecessary_wraps, reason = "it stands in for a look-up")]
    fn alive(_: &str) -> Found {
        Ok(Arc::from([IpAddr::from([192, 0, 2, 1])]))
    }

    fn lookups(patience_ms: u64) -> Lookups {
        Lookups::new(Names::System, Duration::from_millis(patience_ms))
    }

    #[tokio::test]
    async fn a_name_whose_server_is_dead_holds_one_slot_however_often_it_is_asked_for() {
        let dead = Opener(Arc::default());
        let mut lookups = lookups(5);
        for _ in 0..=LOOKUPS_MAX {
            assert_eq!(lookups.shared("dead.example", dead.0.answer()).await, Err(NameError::TooSlow));
        }
        assert_eq!(lookups.slots.available_permits(), LOOKUPS_MAX - 1);
        lookups.patience = Duration::from_secs(10);
        assert_eq!(lookups.shared("alive.example", alive).await, alive(""));
    }

    #[tokio::test]
    async fn too_many_names_at_once_is_our_fault_and_passes() {
        let dead = Opener(Arc::default());
        let mut lookups = lookups(5);
        for at in 0..LOOKUPS_MAX {
            assert_eq!(lookups.shared(&format!("dead-{at}.example"), dead.0.answer()).now_or_never(), None);
        }
        assert_eq!(lookups.shared("alive.example", alive).await, Err(NameError::Busy));
        dead.0.open();
        lookups.patience = Duration::from_secs(10);
        assert_eq!(lookups.shared("alive.example", alive).await, alive(""));
    }

    #[tokio::test]
    async fn an_answer_that_came_too_late_is_not_kept_for_the_next_question() {
        let dead = Opener(Arc::default());
        let mut lookups = lookups(5);
        assert_eq!(lookups.shared("rp.example", dead.0.answer()).await, Err(NameError::TooSlow));
        dead.0.open();
        lookups.patience = Duration::from_secs(10);
        let deadline = Instant::now() + lookups.patience;
        while lookups.shared("rp.example", |_| Err(NameError::NotFound)).await != Err(NameError::NotFound) {
            assert!(Instant::now() < deadline, "the late answer is still given");
        }
    }

    #[tokio::test]
    async fn the_system_knows_its_own_name_and_not_one_that_cannot_exist() {
        let lookups = lookups(10_000);
        assert!(lookups.find("localhost").await.unwrap().iter().all(IpAddr::is_loopback));
        assert!(lookups.find("no-such-name.invalid").await.is_err());
    }
}
