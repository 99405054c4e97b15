//! Processes that share a database wake each other.
//!
//! What is told is told after the fact and at most twenty times a second, however often it happens; what is heard is passed on inside this process and
//! told to nobody. Whatever was missed is looked for as soon as one hears again, and by polling in any case.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::Tools;
use crate::lifecycle::{Stop, Tasks};
use crate::model::ReplicaId;
use crate::store::{Ear, Notice, Store, StoreError};

/// How long the others are left alone after each notice.
const TELL_PAUSE: Duration = Duration::from_millis(50);
/// How long to wait before the database is asked again that failed us.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);

/// What changes inside this process, and what of it came from outside.
#[derive(Clone, Debug)]
struct Inside {
    here: Arc<Notify>,
    settled: watch::Sender<u64>,
    /// How much of `settled` was heard from others; changed only while `settled` is.
    heard: Arc<AtomicU64>,
}

/// Tells and hears until the stop, where there is anybody.
pub(super) fn begin(tools: &Tools, own: &ReplicaId, tasks: &Tasks) {
    if !tools.store.is_shared() {
        return;
    }
    let inside = Inside { here: Arc::clone(tools.doorbell.here()), settled: tools.settled.clone(), heard: Arc::default() };
    let (store, stop) = (tools.store.clone(), tasks.stop().clone());
    drop(tasks.spawn("teller", tell(store.clone(), own.clone(), tools.doorbell.rung(), inside.clone(), stop.clone())));
    drop(tasks.spawn("listener", listen(store, own.clone(), inside, stop)));
}

impl Inside {
    /// How many changes of `settled` were this process's own.
    fn settled_here(&self, settled: &mut watch::Receiver<u64>) -> u64 {
        // Read under the lock that a change takes, so that the two numbers belong together.
        let all = settled.borrow_and_update();
        all.wrapping_sub(self.heard.load(Ordering::SeqCst))
    }

    fn pass_on(&self, notice: Notice) {
        match notice {
            Notice::Due => self.here.notify_one(),
            Notice::Settled => self.settled.send_modify(|count| {
                *count = count.wrapping_add(1);
                self.heard.fetch_add(1, Ordering::SeqCst);
            }),
        }
    }
}

async fn tell(store: Store, own: ReplicaId, mut rung: watch::Receiver<u64>, inside: Inside, stop: Stop) {
    let mut settled = inside.settled.subscribe();
    let mut told = inside.settled_here(&mut settled);
    while !stop.is_requested() {
        let mut notices = Vec::with_capacity(2);
        tokio::select! {
            _ = rung.changed() => notices.push(Notice::Due),
            _ = settled.changed() => {}
            () = stop.requested() => return,
        }
        let here = inside.settled_here(&mut settled);
        if std::mem::replace(&mut told, here) != here {
            notices.push(Notice::Settled);
        }
        let pause = match tell_all(&store, &own, &notices).await {
            Ok(()) => TELL_PAUSE,
            Err(error) => {
                error.tell("tell");
                PAUSE_AFTER_FAILURE
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.requested() => {}
        }
    }
}

async fn tell_all(store: &Store, own: &ReplicaId, notices: &[Notice]) -> Result<(), StoreError> {
    for notice in notices {
        store.tell(*notice, own).await?;
    }
    Ok(())
}

async fn listen(store: Store, own: ReplicaId, inside: Inside, stop: Stop) {
    while !stop.is_requested() {
        let failed = tokio::select! {
            () = stop.requested() => return,
            opened = store.listen(&own) => match opened {
                Ok(None) => return,
                Ok(Some(ear)) => {
                    // What was told while nobody listened is lost: look for all of it.
                    inside.pass_on(Notice::Due);
                    inside.pass_on(Notice::Settled);
                    hear(ear, &inside, &stop).await
                }
                Err(error) => Err(error),
            },
        };
        match failed {
            Ok(()) => return,
            Err(error) => error.tell("listen"),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE_AFTER_FAILURE) => {}
            () = stop.requested() => {}
        }
    }
}

/// Passes on what is heard until the stop, or until nothing can be heard any more.
async fn hear(mut ear: Ear, inside: &Inside, stop: &Stop) -> Result<(), StoreError> {
    loop {
        tokio::select! {
            () = stop.requested() => return Ok(()),
            heard = ear.hear() => inside.pass_on(heard?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside() -> (Inside, watch::Receiver<u64>) {
        let (settled, receiver) = watch::channel(0);
        (Inside { here: Arc::default(), settled, heard: Arc::default() }, receiver)
    }

    #[tokio::test]
    async fn what_is_heard_from_others_wakes_whoever_waits_here_and_is_not_told_on() {
        let (inside, mut settled) = inside();
        let before = inside.settled_here(&mut settled);
        for _ in 0..3 {
            inside.pass_on(Notice::Settled);
        }
        assert!(settled.has_changed().unwrap(), "whoever waits looks again");
        assert_eq!(inside.settled_here(&mut settled), before, "nothing was settled here");
        inside.settled.send_modify(|count| *count += 2);
        inside.pass_on(Notice::Settled);
        assert_ne!(inside.settled_here(&mut settled), before);
        inside.pass_on(Notice::Due);
        inside.here.notified().await;
    }

    #[tokio::test]
    async fn a_ring_from_elsewhere_is_none_from_here() {
        let doorbell = crate::bells::Doorbell::default();
        let rung = doorbell.rung();
        doorbell.here().notify_one();
        doorbell.here().notified().await;
        assert!(!rung.has_changed().unwrap());
        doorbell.notify_one();
        doorbell.here().notified().await;
        assert!(rung.has_changed().unwrap());
    }
}
