//! When the secrets of API tokens were last shown, to the hour.
//!
//! So that whoever replaces one can see that nobody shows the one before any more. It is written after the answer and once an hour, and may be lost with
//! the process: nothing is decided by it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::state::AppState;
use crate::model::access::{Edition, ShownApiToken};
use crate::model::{ApiTokenId, Timestamp};

const HOUR: Duration = Duration::from_hours(1);
/// How many secrets are remembered as written down.
const REMEMBERED_MAX: usize = 10_000;

/// What this process has written down.
#[derive(Debug, Default)]
pub struct Uses(Mutex<HashMap<Secret, Timestamp>>);

/// One secret of a token: an edition of it is another one after each rotation.
type Secret = (ApiTokenId, Edition, Option<Timestamp>);

impl Uses {
    /// The hour to write down; none when it is known.
    fn news(&self, shown: &ShownApiToken, now: Timestamp) -> Option<Timestamp> {
        let hour = now.minus(Duration::from_millis(now.millis().rem_euclid(i64::try_from(HOUR.as_millis()).ok()?).try_into().ok()?));
        if shown.record.last_used(shown.edition).is_some_and(|known| known >= hour) {
            return None;
        }
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (shown.record.id.clone(), shown.edition, shown.record.rotated_at);
        if written.get(&key).is_some_and(|known| *known >= hour) {
            return None;
        }
        if written.len() >= REMEMBERED_MAX {
            written.clear();
        }
        written.insert(key, hour);
        Some(hour)
    }
}

/// Writes down that it was shown, beside the request.
pub(super) fn note(app: &AppState, shown: &ShownApiToken, now: Timestamp) {
    let Some(hour) = app.uses.news(shown, now) else { return };
    let (store, shown) = (app.store.clone(), shown.clone());
    drop(app.tasks.spawn("api token seen", async move {
        if let Err(error) = store.saw_api_token(shown, hour).await {
            error.tell("saw_api_token");
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::access::{ApiTokenRecord, Role};
    use crate::seams::Entropy;

    #[test]
    fn each_secret_is_written_down_once_an_hour() {
        let start = Timestamp::parse("2026-11-22T10:20:30Z").unwrap();
        let hour = |text: &str| Timestamp::parse(text).unwrap();
        let record = |used_at| ApiTokenRecord {
            id: Entropy::seeded(1).id(start),
            role: Role::Auditor,
            issuer: None,
            client_id: None,
            may_mass_kill: false,
            created_at: start,
            expires_at: None,
            revoked_at: None,
            rate_per_s: None,
            rotated_at: None,
            previous_until: None,
            used_at,
            previous_used_at: None,
        };
        let uses = Uses::default();
        let shown = |edition, used_at| ShownApiToken { record: record(used_at), edition };
        assert_eq!(uses.news(&shown(Edition::Current, None), start), Some(hour("2026-11-22T10:00:00Z")));
        assert_eq!(uses.news(&shown(Edition::Current, None), start.plus(Duration::from_mins(39))), None);
        assert_eq!(uses.news(&shown(Edition::Previous, None), start), Some(hour("2026-11-22T10:00:00Z")));
        let later = start.plus(Duration::from_mins(40));
        assert_eq!(uses.news(&shown(Edition::Current, Some(hour("2026-11-22T11:00:00Z"))), later), None, "another process has");
        assert_eq!(uses.news(&shown(Edition::Current, None), later), Some(hour("2026-11-22T11:00:00Z")));
        let rotated = ApiTokenRecord { rotated_at: Some(later), ..record(None) };
        let rotated = ShownApiToken { record: rotated, edition: Edition::Current };
        assert_eq!(uses.news(&rotated, later), Some(hour("2026-11-22T11:00:00Z")), "another secret by then");
    }
}
