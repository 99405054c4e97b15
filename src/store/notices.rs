//! What the processes that share a PostgreSQL database tell each other: that something is due, that something was settled.
//!
//! Owns two connections of its own, so that who waits for word takes none from those who work. A notice saves waiting and nothing depends on it: whoever
//! hears none looks from time to time. Why never inside a transaction: PostgreSQL serialises the commits of those that notify, to a fifth of their rate.
//! The channel is the schema's own, since a database may hold several deployments. Behind a pooler that shares connections nothing is heard.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::time::timeout;

use super::{Engine, Store, StoreError};
use crate::model::ReplicaId;

/// Connections for telling and for hearing.
pub(super) const CONNECTIONS: u32 = 2;
/// How long it may be silent before the connection is asked whether it still stands: one whose other end is gone is as silent as a quiet night.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long the connection may take to say that it stands.
const ANSWER_MAX: Duration = Duration::from_secs(5);

const CHANNEL: &str = "'logoutd_' || CAST(hashtextextended(COALESCE(current_schema(), ''), 0) AS TEXT)";

/// What one process tells the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// There are deliveries to be made at once.
    Due,
    /// Deliveries were settled.
    Settled,
}

impl Notice {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Settled => "settled",
        }
    }

    fn read(word: &str) -> Option<Self> {
        [Self::Due, Self::Settled].into_iter().find(|notice| notice.as_str() == word)
    }
}

/// An open ear; after an error it hears nothing more.
pub struct Ear {
    listener: PgListener,
    own: ReplicaId,
}

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ear").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Store {
    /// Whether other processes may share this database, and whether they can be told anything.
    pub fn is_shared(&self) -> bool {
        self.side().is_some()
    }

    fn side(&self) -> Option<&PgPool> {
        match &self.0.engine {
            Engine::Sqlite { .. } => None,
            Engine::Postgres { side, .. } => Some(side),
        }
    }

    /// Tells the other processes; on SQLite there are none.
    pub async fn tell(&self, notice: Notice, own: &ReplicaId) -> Result<(), StoreError> {
        let Some(side) = self.side() else { return Ok(()) };
        let sql = format!("SELECT pg_notify({CHANNEL}, $1)");
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(format!("{} {own}", notice.as_str())).execute(side).await?;
        Ok(())
    }

    /// Begins to hear what other processes tell; none on SQLite. What was told before is not heard.
    pub async fn listen(&self, own: &ReplicaId) -> Result<Option<Ear>, StoreError> {
        let Some(side) = self.side() else { return Ok(None) };
        let channel: String = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT {CHANNEL}"))).fetch_one(side).await?;
        let mut listener = PgListener::connect_with(side).await?;
        // A lost connection is an error to whoever hears, who then looks for what he missed.
        listener.eager_reconnect(false);
        listener.listen(&channel).await?;
        Ok(Some(Ear { listener, own: own.clone() }))
    }
}

impl Ear {
    /// Waits for the next notice of another process. Safe in `select!`.
    pub async fn hear(&mut self) -> Result<Notice, StoreError> {
        loop {
            match timeout(SILENCE_MAX, self.listener.try_recv()).await {
                Ok(heard) => {
                    let notification = heard?.ok_or_else(StoreError::deaf)?;
                    if let Some(notice) = of_another(notification.payload(), &self.own) {
                        return Ok(notice);
                    }
                }
                Err(_) => self.stands().await?,
            }
        }
    }

    async fn stands(&mut self) -> Result<(), StoreError> {
        timeout(ANSWER_MAX, sqlx::query("SELECT 1").execute(&mut self.listener)).await.map_err(|_| StoreError::deaf())??;
        Ok(())
    }
}

/// None when it is one's own, or a word of a later version.
fn of_another(payload: &str, own: &ReplicaId) -> Option<Notice> {
    let (word, by) = payload.split_once(' ')?;
    Notice::read(word).filter(|_| by != own.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_of_ones_own_and_one_that_is_not_understood_are_passed_over() {
        let own = ReplicaId::stored("A".to_owned());
        assert_eq!(of_another("due B", &own), Some(Notice::Due));
        assert_eq!(of_another("settled B", &own), Some(Notice::Settled));
        for other in ["due A", "settled A", "due", "", "later B"] {
            assert_eq!(of_another(other, &own), None, "{other}");
        }
    }
}
