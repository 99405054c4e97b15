//! The company: how many processes share the work, and which of them this one is.

use std::time::Duration;

use tokio::sync::watch;

use crate::lifecycle::Stop;
use crate::model::ReplicaId;
use crate::plan::lane::Share;
use crate::store::Store;

/// For how many beats a process may be silent and is still counted.
const BEATS_MISSED_MAX: u32 = 3;

/// Says at each beat that this process lives, and tells its share; at the stop it says that it ends. While the database is away the share stays as it was.
pub async fn stay_counted(store: Store, own: ReplicaId, beat: Duration, share: watch::Sender<Share>, stop: Stop) {
    while !stop.is_requested() {
        match store.beat(&own, BEATS_MISSED_MAX * beat).await {
            Ok(live) => {
                let now = share_of(&own, &live);
                share.send_if_modified(|known| std::mem::replace(known, now) != now);
            }
            Err(error) => error.tell("beat"),
        }
        tokio::select! {
            () = stop.requested() => {}
            () = tokio::time::sleep(beat) => {}
        }
    }
    if let Err(error) = store.leave(&own).await {
        error.tell("leave");
    }
}

/// `live` is in the order of ids, which all of them agree on.
fn share_of(own: &ReplicaId, live: &[ReplicaId]) -> Share {
    let count = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    let rank = live.iter().position(|one| one == own).unwrap_or(0);
    Share { replicas: count(live.len()).max(1), rank: count(rank) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use crate::seams::Entropy;

    #[test]
    fn those_that_live_have_ranks_of_their_own_below_their_number() {
        let entropy = Entropy::seeded(1);
        let mut live: Vec<ReplicaId> = (0..5).map(|n| entropy.id(Timestamp::from_seconds(n))).collect();
        live.sort();
        let ranks: Vec<u16> = live.iter().map(|own| share_of(own, &live).rank).collect();
        assert_eq!(ranks, [0, 1, 2, 3, 4]);
        assert_eq!(share_of(&live[3], &live).replicas, 5);
        assert_eq!(share_of(&live[0], &[]), Share { replicas: 1, rank: 0 }, "whoever counts is there");
    }
}
