//! The vault: durable truth, and every SQL statement there is.
//!
//! Owns two typed pools and one text for each statement. The text of `statements/` is compiled twice, once for each engine, so that it is checked
//! against both and written once; where an engine needs a text of its own, it stands in that engine's module below with its reason. On SQLite one
//! writer commits whatever waits in groups (`writer.rs`); on PostgreSQL each change is a transaction in a tracked task, since a cancelled `begin`
//! would leave a pooled connection inside an open transaction.
//!
//! Never decides: the rules come in as functions from `plan`, are applied inside the transaction that holds their facts, and can therefore be run
//! again. A deadlock or a race on PostgreSQL reruns the whole transaction, a bounded number of times. What one transaction should not hold is a work,
//! advanced a page at a time by whoever asks. Processes that share a PostgreSQL database tell each other through it (`notices.rs`), and lose nothing if
//! nobody hears.
//!
//! Methods are named for what happens in the world. Not found is `None`; an error means that nothing is known to be committed.

pub mod copies;
mod engine;
pub mod moving;
mod notices;
mod person;
mod remembered;
mod values;
mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{PgPool, SqlitePool};
use tokio_util::task::TaskTracker;

pub use engine::{OpenError, StoreSettings, in_full};
pub use notices::{Ear, Notice};
pub use person::{Name, Names, Written};
use remembered::{Commits, Remembered};
pub use values::*;
use writer::Writer;

use crate::model::access::{ApiTokenRecord, Caller, ShownApiToken};
use crate::model::alarm::{AlarmKind, AlarmRecord, Difference, Raised};
use crate::model::attempt::AttemptRecord;
use crate::model::audit::{AuditKey, AuditRecord, Checkpoint, Head, Proof, TrailRecord, TrailState};
use crate::model::certificate::Certificates;
use crate::model::client::ClientRecord;
use crate::model::cut_off::OrderedCutOff;
use crate::model::delivery::{DeliveryView, Lane, Leased, SettledReason};
use crate::model::denial::{Denial, Denied};
use crate::model::effects::{OpeningRule, Reach, ReportRules, WorkRules};
use crate::model::event::Receipt;
use crate::model::gap::{AfterRestore, Gap, OpenGaps};
use crate::model::issuer::{IssuerRecord, ProviderDocument};
use crate::model::key::{KeyRecord, Sighting};
use crate::model::lane::{Deal, LaneRecord};
use crate::model::page::{Cursor, Listed, Page};
use crate::model::report::{Report, TokenName};
use crate::model::session::{SessionName, SessionView};
use crate::model::token::{AccessClaims, TokenEventView};
use crate::model::trace::TraceContext;
use crate::model::trigger::Trigger;
use crate::model::{
    ApiTokenId, ClientId, CutOffId, DeliveryId, DenialId, Digest, EventId, GapId, IssuerId, Jti, ReplicaId, SessionId, Subject, Timestamp,
    WorkId,
};
use crate::observe::traces::{self, Span, SpanKind};
use crate::observe::{DeliveriesPlanned, DeliveriesUnreachable, GroupCommitted, StoreFailed, StoreFault};
use crate::seams::{Clock, Entropy, Prover, Veil};

/// SQLite: no locks are needed, since one writer does everything in turn.
mod sqlite {
    pub(super) type Db = sqlx::Sqlite;
    pub(super) type Conn = sqlx::SqliteConnection;

    pub(super) mod dialect;

    #[path = "../statements/mod.rs"]
    pub(super) mod statements;
}

/// PostgreSQL: whoever changes sessions first takes what a logout takes, in the same order. Without these locks three interleavings lose a logout at
/// READ COMMITTED: a participant inserted while its session ends, a session reported while its subject is logged out, and a token registered while
/// its session ends.
#[expect(clippy::duplicate_mod, reason = "the statements are written once and compiled for each engine")]
mod postgres {
    pub(super) type Db = sqlx::Postgres;
    pub(super) type Conn = sqlx::PgConnection;

    pub(super) mod dialect;

    #[path = "../statements/mod.rs"]
    pub(super) mod statements;
}

/// What statements need besides a connection.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    /// What stands for names that were erased.
    pub(crate) veil: Veil,
    /// What proves audit records.
    pub(crate) prover: Prover,
    /// The deliveries this transaction wrote so far.
    written: Arc<Mutex<DeliveriesWritten>>,
    /// Where what it commits belongs.
    pub(crate) trace: Option<TraceContext>,
}

impl Context {
    fn new(clock: Clock, entropy: Entropy) -> Self {
        Self { clock, entropy, veil: Veil::default(), prover: Prover::default(), written: Arc::default(), trace: None }
    }

    /// For one transaction.
    fn begun(&self, trace: Option<TraceContext>) -> Self {
        Self { written: Arc::default(), trace, ..self.clone() }
    }

    /// So many deliveries were written, and these of them settled at once.
    fn wrote(&self, deliveries: u64, unreachable: impl IntoIterator<Item = SettledReason>) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.deliveries += deliveries;
        for reason in unreachable {
            match written.unreachable.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, number)) => *number += 1,
                None => written.unreachable.push((reason, 1)),
            }
        }
    }

    /// A transaction that is run again begins with nothing.
    fn again(&self) -> &Self {
        drop(self.taken());
        self
    }

    fn taken(&self) -> DeliveriesWritten {
        std::mem::take(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is undone was not planned.
    fn judged<T>(&self, outcome: Result<Ending<T>, StoreError>) -> Result<Ending<T>, StoreError> {
        if !matches!(outcome, Ok(Ending::Keep(_))) {
            drop(self.taken());
        }
        outcome
    }
}

/// Deliveries that a transaction wrote.
#[derive(Debug, Default)]
struct DeliveriesWritten {
    deliveries: u64,
    /// Those of them that could never be made, by the reason.
    unreachable: Vec<(SettledReason, u64)>,
}

/// Whether what a transaction did shall stand.
enum Ending<T> {
    Keep(T),
    Undo(T),
}

impl<T> Ending<T> {
    fn map<U>(self, with: impl FnOnce(T) -> U) -> Ending<U> {
        match self {
            Self::Keep(value) => Ending::Keep(with(value)),
            Self::Undo(value) => Ending::Undo(with(value)),
        }
    }
}

enum Engine {
    /// The lock is held as long as the store lives.
    Sqlite {
        read: SqlitePool,
        writer: Writer,
        remembered: Remembered,
        version: String,
        durability: Vec<(&'static str, String)>,
        _lock: File,
    },
    Postgres {
        pool: PgPool,
        /// For notices alone.
        side: PgPool,
        version: String,
        durability: Vec<(&'static str, String)>,
        tasks: TaskTracker,
    },
}

struct Inner {
    engine: Engine,
    context: Context,
}

/// The vault. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.engine())
    }
}

/// One statement or several that only read.
macro_rules! read {
    ($store:expr, $($op:ident)::+ ( $($argument:expr),* )) => {
        match &$store.0.engine {
            Engine::Sqlite { read, .. } => {
                let mut connection = read.acquire().await.map_err(StoreError::unread)?;
                sqlite::statements::$($op)::+(&mut connection, $($argument),*).await.map_err(StoreError::while_reading)
            }
            Engine::Postgres { pool, .. } => {
                let mut connection = pool.acquire().await.map_err(StoreError::unread)?;
                postgres::statements::$($op)::+(&mut connection, $($argument),*).await.map_err(StoreError::while_reading)
            }
        }
    };
}

/// What was found since the last commit, or what a look finds. What was not found is looked for again: it may be anything.
macro_rules! remember {
    ($store:expr, $kind:ident, $key:expr, $look:expr) => {{
        let remembered = match &$store.0.engine {
            Engine::Sqlite { remembered, .. } => Some((&remembered.$kind, remembered.since())),
            Engine::Postgres { .. } => None,
        };
        if let Some(known) = remembered.and_then(|(kind, since)| kind.get($key, since)) {
            return Ok(Some(known));
        }
        let found = $look?;
        if let (Some((kind, since)), Some(found)) = (remembered, &found) {
            kind.put($key, found, since);
        }
        Ok(found)
    }};
}

/// One transaction. Its input is owned, so that it can outlive a caller who hangs up and be run again.
macro_rules! write {
    ($store:expr, $($op:ident)::+ ( $input:expr )) => {{
        let input = Arc::new($input);
        let span = traces::begin_here(SpanKind::Internal, concat!("transaction", $(".", stringify!($op)),+));
        let context = $store.0.context.begun(span.context());
        let told = context.clone();
        let outcome = match &$store.0.engine {
            Engine::Sqlite { writer, .. } => {
                writer
                    .run(move |connection| {
                        Box::pin(async move { context.judged(sqlite::statements::$($op)::+(connection, &context, &input).await) })
                    })
                    .await
            }
            Engine::Postgres { pool, tasks, .. } => {
                transact(pool, tasks, context.clock.clone(), move |connection| {
                    let (context, input) = (context.clone(), Arc::clone(&input));
                    Box::pin(async move {
                        context.judged(postgres::statements::$($op)::+(connection, context.again(), &input).await)
                    })
                })
                .await
            }
        };
        $store.tell_written(span, &outcome, told.taken());
        outcome
    }};
}

impl Store {
    /// Opens the database, brings its schema up to date and refuses one that would not keep what it is given.
    pub async fn open(settings: &StoreSettings, clock: Clock, entropy: Entropy, tasks: &TaskTracker) -> Result<Self, OpenError> {
        let engine = if settings.url.starts_with("sqlite:") {
            let engine::OpenedSqlite { read, write, lock, version, durability } = engine::open_sqlite(settings).await?;
            let commits = Commits::default();
            let (writer, task) = Writer::new(write, clock.clone(), commits.clone());
            tasks.spawn(task);
            Engine::Sqlite { read, writer, remembered: Remembered::new(commits), version, durability, _lock: lock }
        } else if settings.url.starts_with("postgres:") || settings.url.starts_with("postgresql:") {
            let engine::OpenedPostgres { pool, side, version, durability } = engine::open_postgres(settings).await?;
            Engine::Postgres { pool, side, version, durability, tasks: tasks.clone() }
        } else {
            return Err(OpenError::Url);
        };
        Ok(Self(Arc::new(Inner { engine, context: Context::new(clock, entropy) })))
    }

    /// What would keep the database from being opened, as far as that can be told without opening it.
    pub fn foreseen(settings: &StoreSettings) -> Result<(), OpenError> {
        engine::foreseen(settings)
    }

    /// What stands for the names of those who were erased. Without it nobody can be, and of those who were nothing is known any more.
    pub fn veil_names(&self, veiling: impl Fn(&str, &str) -> String + Send + Sync + 'static) {
        self.0.context.veil.give(veiling);
    }

    /// What proves the audit records that are written from now on. What is written without it is never sealed.
    pub fn prove_records(&self, proving: impl Fn(&AuditRecord) -> Proof + Send + Sync + 'static) {
        self.0.context.prover.give(proving);
    }

    /// Which engine, in which version.
    pub fn engine(&self) -> String {
        match &self.0.engine {
            Engine::Sqlite { version, .. } => format!("sqlite {version}"),
            Engine::Postgres { version, .. } => format!("postgres {version}"),
        }
    }

    /// The settings a commit's durability hangs on, as they were found at the start.
    pub fn durability(&self) -> &[(&'static str, String)] {
        match &self.0.engine {
            Engine::Sqlite { durability, .. } | Engine::Postgres { durability, .. } => durability,
        }
    }

    /// What a transaction that ended has to tell.
    fn tell_written<T>(&self, mut span: Span, outcome: &Result<T, StoreError>, written: DeliveriesWritten) {
        match outcome {
            Ok(_) if written.deliveries > 0 => {
                DeliveriesPlanned { count: written.deliveries }.emit();
                written.unreachable.into_iter().for_each(|(reason, count)| DeliveriesUnreachable { reason, count }.emit());
            }
            Ok(_) => {}
            Err(StoreError::Unavailable(_) | StoreError::Unread(_)) => span.fail("unavailable"),
            Err(StoreError::Corrupt { .. }) => span.fail("corrupt"),
        }
        span.note(
            "db.system.name",
            match &self.0.engine {
                Engine::Sqlite { .. } => "sqlite",
                Engine::Postgres { .. } => "postgresql",
            },
        );
        span.end();
    }

    /// Ends the pools; statements under way finish. The writer ends when the last clone is gone.
    pub async fn close(&self) {
        match &self.0.engine {
            Engine::Sqlite { read, .. } => read.close().await,
            Engine::Postgres { pool, side, .. } => {
                side.close().await;
                pool.close().await;
            }
        }
    }

    /// The instant every loop and door goes by: the database server's, or this process's on SQLite.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        match &self.0.engine {
            Engine::Sqlite { .. } => Ok(self.0.context.clock.now()),
            Engine::Postgres { pool, .. } => postgres::dialect::now(&mut *pool.acquire().await?, &self.0.context.clock).await,
        }
    }

    /// Whether the database answers and can be written to.
    pub async fn ping(&self) -> Result<(), StoreError> {
        write!(self, meta::ping(()))
    }

    // ---- what providers report ----

    /// Applies a caller's reports in order, each undone by itself when it is refused.
    pub async fn take_reports(
        &self,
        issuer: &IssuerRecord,
        caller: &Caller,
        reports: Vec<Report>,
        rules: ReportRules,
    ) -> Result<Told, StoreError> {
        write!(self, reports::report((issuer.clone(), caller.clone(), reports, rules)))
    }

    /// Puts a refresh token's successor in its place, if it may: one transaction, in which a reuse also commits its logout.
    pub async fn rotate(&self, order: RotationOrder) -> Result<Turned, StoreError> {
        write!(self, families::rotate(order))
    }

    /// Counts something a door noticed about a token, and puts it on record.
    pub async fn note_token_event(&self, notice: TokenNotice) -> Result<(), StoreError> {
        write!(self, token_events::note(notice))
    }

    /// What was noticed about the tokens of a session, the latest first.
    pub async fn token_events(&self, session: &SessionId) -> Result<Vec<TokenEventView>, StoreError> {
        read!(self, token_events::of_session(session))
    }

    /// The live session of that name, else the latest.
    pub async fn session(&self, issuer: &IssuerId, name: &SessionName) -> Result<Option<SessionView>, StoreError> {
        read!(self, sessions::named(issuer, name))
    }

    /// Sessions, newest first.
    pub async fn sessions(&self, filter: SessionFilter, page: Page) -> Result<Listed<SessionView>, StoreError> {
        read!(self, sessions::listed(&filter, &page))
    }

    /// Where a person is, and where they may still be.
    pub async fn subject_record(&self, issuer: &IssuerId, sub: &Subject) -> Result<SubjectRecord, StoreError> {
        read!(self, sessions::subject(&self.0.context, issuer, sub))
    }

    /// All that a person is known by and found by; none where it is more than one erasure may be about.
    pub async fn erasure_sight(&self, issuer: &IssuerId, sub: &Subject) -> Result<Option<Sight>, StoreError> {
        read!(self, erasure::sight(issuer, sub))
    }

    /// Audit records that may name a person who was looked for, newest first.
    pub async fn audit_about(&self, issuer: &IssuerId, sight: &Sight, page: &Page) -> Result<Listed<TrailRecord>, StoreError> {
        read!(self, audit::about(issuer, sight, page))
    }

    /// Makes a person nobody, unless something of theirs is still going on: one transaction.
    pub async fn erase(&self, order: Erasure) -> Result<Erasing, StoreError> {
        write!(self, erasure::erase(order))
    }

    // ---- whether a token is good ----

    /// A registered refresh token by any of its names.
    pub async fn refresh_token(&self, issuer: &IssuerRecord, names: &[TokenName]) -> Result<Option<TokenRecord>, StoreError> {
        read!(self, tokens::refresh(issuer, names))
    }

    /// A registered access token by any of its names.
    pub async fn access_token(&self, issuer: &IssuerRecord, names: &[TokenName]) -> Result<Option<TokenRecord>, StoreError> {
        read!(self, tokens::access(issuer, names))
    }

    /// Until when a `jti` is refused.
    pub async fn denied_jti(&self, issuer: &IssuerId, jti: &Jti) -> Result<Option<Timestamp>, StoreError> {
        read!(self, tokens::denied_jti(issuer, jti))
    }

    /// What is known of an access token that need not be registered, by what it says of itself. Its signature was verified before.
    pub async fn claimed_token(&self, issuer: &IssuerRecord, claims: &AccessClaims) -> Result<TokenRecord, StoreError> {
        read!(self, tokens::claimed(&self.0.context.veil, issuer, claims))
    }

    /// Makes tokens that were issued before an instant inactive as long as it lasts; none where as many are ordered as there may be.
    pub async fn order_cut_off(
        &self,
        issuer: &IssuerId,
        order: CutOffOrder,
        audit: AuditEntry,
    ) -> Result<Option<OrderedCutOff>, StoreError> {
        write!(self, cut_offs::order((issuer.clone(), order, audit)))
    }

    /// Cut-offs that were ordered and still hold, newest first.
    pub async fn ordered_cut_offs(&self, issuer: &IssuerId, page: Page) -> Result<Listed<OrderedCutOff>, StoreError> {
        read!(self, cut_offs::ordered(&self.0.context, issuer, &page))
    }

    /// Removes an ordered cut-off.
    pub async fn lift_cut_off(&self, issuer: &IssuerId, id: &CutOffId, audit: AuditEntry) -> Result<Change, StoreError> {
        write!(self, cut_offs::lift((issuer.clone(), id.clone(), audit)))
    }

    /// On a database that was restored from a backup, opens a gap at every issuer, once.
    pub async fn open_gaps_after_restore(&self) -> Result<Option<AfterRestore>, StoreError> {
        write!(self, gaps::open_after_restore(()))
    }

    /// Opens a gap; none where as many are open as there may be.
    pub async fn open_gap(&self, issuer: &IssuerId, order: GapOrder, audit: AuditEntry) -> Result<Option<Gap>, StoreError> {
        write!(self, gaps::open((issuer.clone(), order, audit)))
    }

    /// Closes an open gap; none where there is none of that id.
    pub async fn close_gap(&self, issuer: &IssuerId, id: &GapId, audit: AuditEntry) -> Result<Option<Gap>, StoreError> {
        write!(self, gaps::close((issuer.clone(), id.clone(), audit)))
    }

    /// Gaps of an issuer, open and closed, newest first.
    pub async fn gaps(&self, issuer: &IssuerId, page: Page) -> Result<Listed<Gap>, StoreError> {
        read!(self, gaps::listed(issuer, &page))
    }

    /// How long the open gaps of an issuer lasted; none where none is open.
    pub async fn open_gaps_at(&self, issuer: &IssuerId) -> Result<Option<OpenGaps>, StoreError> {
        read!(self, gaps::open_at(issuer))
    }

    /// Those of them that are open, the oldest first.
    pub async fn standing_gaps(&self, issuer: &IssuerId) -> Result<Vec<Gap>, StoreError> {
        read!(self, gaps::standing(issuer))
    }

    /// The issuers at which gaps are open that were opened before a time, and when the last of them ended.
    pub async fn gaps_open_since(&self, before: Timestamp) -> Result<Vec<(IssuerId, Timestamp)>, StoreError> {
        read!(self, gaps::open_since(before))
    }

    /// How many gaps are open at all issuers together.
    pub async fn open_gaps(&self) -> Result<u64, StoreError> {
        read!(self, gaps::open_now())
    }

    /// Which version of a subject's secret is the current one.
    pub async fn secret_version(&self, issuer: &IssuerId, sub: &Subject) -> Result<u64, StoreError> {
        read!(self, secrets::version(&self.0.context.veil, issuer, sub))
    }

    /// Changes a subject's secret; answers the new version.
    pub async fn bump_secret(&self, issuer: &IssuerId, sub: &Subject, audit: AuditEntry) -> Result<u64, StoreError> {
        write!(self, secrets::bump((issuer.clone(), sub.clone(), audit)))
    }

    /// Refuses whatever has this name until then; of two expiries the later one holds.
    pub async fn deny(
        &self,
        issuer: &IssuerId,
        denied: &Denied,
        expires_at: Timestamp,
        audit: AuditEntry,
    ) -> Result<(Denial, Change), StoreError> {
        write!(self, denylist::deny((issuer.clone(), denied.clone(), expires_at, audit)))
    }

    /// What is on the denylist and not over yet, newest first.
    pub async fn denials(&self, issuer: &IssuerId, page: Page) -> Result<Listed<Denial>, StoreError> {
        read!(self, denylist::listed(&self.0.context, issuer, &page))
    }

    /// Takes an entry off the denylist.
    pub async fn lift_denial(&self, issuer: &IssuerId, id: &DenialId, audit: AuditEntry) -> Result<Change, StoreError> {
        write!(self, denylist::lift((issuer.clone(), id.clone(), audit)))
    }

    /// Takes the identifier of a client's assertion; false when it was taken before, and would still be good.
    pub async fn take_assertion(&self, issuer: &IssuerId, client: &ClientId, jti: &Jti, until: Timestamp) -> Result<bool, StoreError> {
        write!(self, assertions::take((issuer.clone(), client.clone(), jti.clone(), until)))
    }

    /// Revokes a token without ending its session: a refresh token with its family, an access token alone. One transaction, with the audit record.
    pub async fn revoke_token(&self, order: Revocation) -> Result<Revoked, StoreError> {
        write!(self, revocation::revoke(order))
    }

    // ---- logouts ----

    /// Ends what the reach names, revokes, writes the deliveries, the cut-off and the audit record: one transaction.
    ///
    /// `target_json` is what receipts show; it must not hold a token.
    pub async fn commit(
        &self,
        trigger: &Trigger,
        reach: &Reach,
        target_json: String,
        mode: Mode,
        opening: OpeningRule,
    ) -> Result<Committed, CommitRefused> {
        if mode == Mode::Rehearse
            && let Some(receipt) = self.rehearse_many(trigger, reach, &target_json, opening).await?
        {
            return Ok(Committed { receipt, replayed: false });
        }
        write!(self, commit::commit((trigger.clone(), reach.clone(), target_json, mode, opening)))?
    }

    /// Takes a provider's logout token that was verified: what it ends, whom it tells and its `jti` are one transaction, so that it is taken once.
    pub async fn take_token(&self, order: TokenOrder) -> Result<TokenTaken, TokenRefused> {
        write!(self, relay::take(order))?
    }

    /// Counts beside the writer, which must not stand still for a million sessions.
    async fn rehearse_many(
        &self,
        trigger: &Trigger,
        reach: &Reach,
        target_json: &str,
        opening: OpeningRule,
    ) -> Result<Option<Receipt>, StoreError> {
        read!(self, commit::rehearse_many(&self.0.context, trigger, reach, target_json, opening))
    }

    /// Undoes a logout as far as that is possible: nothing more is ended, nobody else is told, its cut-offs are lifted. What was ended or told stays so.
    pub async fn undo(&self, issuer: &IssuerId, id: &EventId, audit: AuditEntry) -> Result<Option<Receipt>, StoreError> {
        write!(self, works::undo((issuer.clone(), id.clone(), audit)))
    }

    /// Works that are not done, the oldest first.
    pub async fn open_works(&self) -> Result<Vec<WorkId>, StoreError> {
        read!(self, works::open())
    }

    /// Does one page of a work; none when it is done or gone.
    pub async fn advance_work(&self, id: &WorkId, rules: WorkRules) -> Result<Option<Advanced>, StoreError> {
        write!(self, works::advance((id.clone(), rules)))
    }

    /// A logout's receipt as it stands now.
    pub async fn receipt(&self, issuer: &IssuerId, id: &EventId) -> Result<Option<Receipt>, StoreError> {
        read!(self, events::receipt(issuer, id))
    }

    /// The HTTP status of each delivery's last attempt, as far as it had one.
    pub async fn last_statuses(&self, deliveries: Vec<DeliveryId>) -> Result<BTreeMap<DeliveryId, Option<u16>>, StoreError> {
        read!(self, deliveries::last_statuses(&deliveries))
    }

    /// How many deliveries of every kind a logout has.
    pub async fn delivery_count(&self, event: &EventId) -> Result<u64, StoreError> {
        read!(self, deliveries::count_of(event))
    }

    /// The identity of the caller that posted a logout.
    pub async fn event_caller(&self, issuer: &IssuerId, id: &EventId) -> Result<Option<String>, StoreError> {
        read!(self, events::caller(issuer, id))
    }

    /// Logouts, newest first; their receipts carry no deliveries.
    pub async fn events(&self, filter: EventFilter, page: Page) -> Result<Listed<Receipt>, StoreError> {
        read!(self, events::listed(&filter, &page))
    }

    /// Deliveries, newest first.
    pub async fn deliveries(&self, filter: DeliveryFilter, page: Page) -> Result<Listed<DeliveryView>, StoreError> {
        read!(self, deliveries::listed(&filter, &page))
    }

    /// A delivery with its attempts, first to last.
    pub async fn delivery(&self, issuer: &IssuerId, id: &DeliveryId) -> Result<Option<(DeliveryView, Vec<AttemptRecord>)>, StoreError> {
        read!(self, deliveries::one(issuer, id))
    }

    // ---- ends by age ----

    /// Sessions of an issuer whose time is up, a page of them, the longest overdue first.
    pub async fn overdue(&self, issuer: &IssuerRecord) -> Result<Vec<SessionId>, StoreError> {
        read!(self, expiry::due(&self.0.context, issuer))
    }

    /// Ends those of these sessions whose time is up by the database's clock: one transaction, one event. None when there was nothing left to end.
    pub async fn expire(
        &self,
        issuer: &IssuerRecord,
        sessions: Vec<SessionId>,
        opening: OpeningRule,
    ) -> Result<Option<Receipt>, StoreError> {
        write!(self, expiry::expire((issuer.clone(), sessions, opening)))
    }

    /// Live sessions of an issuer in the order of their ids, beyond one of them.
    pub async fn live_sessions(&self, issuer: &IssuerId, after: Option<&SessionId>, limit: u16) -> Result<Vec<LiveSession>, StoreError> {
        read!(self, reconcile::live(issuer, after, limit))
    }

    /// Ends what a provider no longer lists, or lists it as a work where it is much.
    pub async fn reconcile(&self, order: Reconciliation, mode: Mode) -> Result<Committed, CommitRefused> {
        write!(self, reconcile::reconcile((order, mode)))?
    }

    // ---- what is over ----

    /// Removes some logouts of each issuer that have been kept long enough, with all that belongs to them; answers how many rows went.
    pub async fn forget_logouts(&self, keep: Keep) -> Result<u64, StoreError> {
        let issuers: Vec<IssuerId> = read!(self, retention::issuers())?;
        let mut gone = 0;
        for issuer in issuers {
            let events: Vec<String> = read!(self, retention::old_events(&self.0.context, &issuer, keep))?;
            if !events.is_empty() {
                gone += write!(self, retention::forget_events((events, keep)))?;
            }
        }
        Ok(gone)
    }

    /// Removes some of what has been kept long enough of one kind; answers how many rows went.
    pub async fn forget(&self, kind: Forgettable, keep: Keep) -> Result<u64, StoreError> {
        let found: Vec<String> = read!(self, retention::old(&self.0.context, kind, keep))?;
        if found.is_empty() {
            return Ok(0);
        }
        write!(self, retention::forget((kind, found, keep)))
    }

    // ---- what operators do ----

    /// Holds a client's lane until it is resumed, and says since when; none for a client that is not registered.
    pub async fn pause_client(&self, issuer: &IssuerId, id: &ClientId, audit: AuditEntry) -> Result<Option<Timestamp>, StoreError> {
        write!(self, operators::pause((issuer.clone(), id.clone(), audit)))
    }

    /// Lets a paused lane go on.
    pub async fn resume_client(&self, issuer: &IssuerId, id: &ClientId, audit: AuditEntry) -> Result<Change, StoreError> {
        write!(self, operators::resume((issuer.clone(), id.clone(), audit)))
    }

    /// Makes all tokens of a client inactive until further notice, and says since when; none for a client that is not registered.
    pub async fn suspend_client(&self, issuer: &IssuerId, id: &ClientId, audit: AuditEntry) -> Result<Option<Timestamp>, StoreError> {
        write!(self, operators::suspend((issuer.clone(), id.clone(), audit)))
    }

    /// Lifts a client's suspension.
    pub async fn unsuspend_client(&self, issuer: &IssuerId, id: &ClientId, audit: AuditEntry) -> Result<Change, StoreError> {
        write!(self, operators::unsuspend((issuer.clone(), id.clone(), audit)))
    }

    /// What expires in a lane before each of these instants if nothing is delivered.
    pub async fn forecast(&self, lane: &Lane, at: [Timestamp; 3]) -> Result<Forecast, StoreError> {
        read!(self, operators::forecast(lane, at))
    }

    /// How lanes stand, in the order of `lanes`.
    pub async fn lanes(&self, lanes: &[Lane], now: Timestamp) -> Result<Vec<LaneView>, StoreError> {
        read!(self, operators::lanes(lanes, now))
    }

    /// Registered clients, the one with the oldest pending delivery first; those without any last, by name.
    pub async fn clients_by_oldest(&self, issuer: &IssuerId, page: Page) -> Result<Listed<ClientRecord>, StoreError> {
        read!(self, operators::clients_by_oldest(issuer, &page))
    }

    /// Opens a delivery again, with new patience and due at once; an attempt under way is not interrupted. `own` confines it to one client.
    pub async fn retry_delivery(
        &self,
        issuer: &IssuerId,
        id: &DeliveryId,
        own: Option<ClientId>,
        opening: OpeningRule,
        audit: AuditEntry,
    ) -> Result<Retried, StoreError> {
        write!(self, operators::retry((issuer.clone(), id.clone(), own, opening, audit)))
    }

    /// Settles a pending delivery as cancelled; an attempt under way loses its lease.
    pub async fn cancel_delivery(&self, issuer: &IssuerId, id: &DeliveryId, audit: AuditEntry) -> Result<Cancelled, StoreError> {
        write!(self, operators::cancel((issuer.clone(), id.clone(), audit)))
    }

    /// How many deliveries a replay would find.
    pub async fn replay_matches(&self, replay: &Replay) -> Result<u64, StoreError> {
        read!(self, operators::matched(replay))
    }

    /// Opens settled deliveries again, the oldest first: as many as one transaction may hold, and a work for those beyond. They are looked for outside
    /// of the transaction.
    pub async fn replay(&self, replay: Replay, opening: OpeningRule, audit: AuditEntry) -> Result<Replayed, StoreError> {
        let matched = self.replay_matches(&replay).await?;
        if matched == 0 {
            return Ok(Replayed::default());
        }
        let found = read!(self, operators::first_page(&replay))?;
        write!(self, operators::replay((replay, matched, found, opening, audit)))
    }

    /// Writes an audit record of something that changed nothing else.
    pub async fn record(&self, audit: AuditEntry) -> Result<(), StoreError> {
        write!(self, operators::record(audit))
    }

    // ---- the courier ----

    /// What is pending, by lane, class and turn, with the time when the first of each is due: at most 65,536 of them.
    pub async fn queues(&self) -> Result<Vec<Queue>, StoreError> {
        read!(self, deliveries::queues())
    }

    /// Leases up to so many rows as were dealt, oldest first. `lease_token` is the claimer's fresh random number.
    pub async fn claim_due(
        &self,
        deals: &[Deal],
        now: Timestamp,
        lease_until: Timestamp,
        lease_token: i64,
    ) -> Result<Vec<Leased>, StoreError> {
        write!(self, deliveries::claim_due((deals.to_vec(), now, lease_until, lease_token)))
    }

    /// Takes an open lane's probe for this process, with one delivery that waits; none when another has it, or nothing waits.
    pub async fn take_probe(&self, probe: Probe) -> Result<Option<Leased>, StoreError> {
        write!(self, deliveries::take_probe(probe))
    }

    /// The lanes and hosts about which there is something to remember.
    pub async fn lane_records(&self) -> Result<Vec<LaneRecord>, StoreError> {
        read!(self, lanes::records())
    }

    /// What the clients of these lanes ask for; nothing for who is not registered.
    pub async fn lane_settings(&self, of: &[Lane]) -> Result<Vec<LaneSettings>, StoreError> {
        read!(self, lanes::settings(of))
    }

    /// Records changes of lanes in order, and says of each whether it was one.
    pub async fn note_lanes(&self, notes: Vec<LaneNote>, now: Timestamp) -> Result<Vec<bool>, StoreError> {
        write!(self, lanes::note((notes, now)))
    }

    /// Parks the lanes that have failed since before `since` while something is pending, and names them.
    pub async fn park_lanes(&self, since: Timestamp, now: Timestamp) -> Result<Vec<Lane>, StoreError> {
        write!(self, lanes::park((since, now)))
    }

    /// The oldest pending delivery of each lane that is not simply well.
    pub async fn oldest_waiting(&self) -> Result<Vec<Oldest>, StoreError> {
        read!(self, lanes::oldest())
    }

    /// Notes that this much of the horizon was told of, and says whether nobody else has.
    pub async fn note_told(&self, lane: &Lane, percent: u8) -> Result<bool, StoreError> {
        write!(self, lanes::told((lane.clone(), percent)))
    }

    /// Forgets the lanes about which there has been nothing to remember since then.
    pub async fn forget_lanes(&self, closed_before: Timestamp, probed_before: Timestamp) -> Result<u64, StoreError> {
        write!(self, lanes::forget((closed_before, probed_before)))
    }

    /// Expires pending deliveries that nobody is attempting and whose horizon has passed, at most `limit`.
    pub async fn expire_passed(&self, now: Timestamp, limit: u16) -> Result<Vec<Passed>, StoreError> {
        write!(self, lanes::expire((now, limit)))
    }

    /// What an attempt needs beside its lease, in the order of `leased`.
    pub async fn attempt_facts(&self, leased: &[Leased]) -> Result<Vec<AttemptFacts>, StoreError> {
        read!(self, deliveries::attempt_facts(leased))
    }

    /// Records outcomes, fenced by the lease token; an attempt is recorded even when the fence fails.
    pub async fn settle(&self, settlements: Vec<Settlement>, now: Timestamp) -> Result<Vec<Recorded>, StoreError> {
        write!(self, deliveries::settle((settlements, now)))
    }

    /// Gives back leases whose work was never begun.
    pub async fn release(&self, leases: &[(DeliveryId, i64)]) -> Result<(), StoreError> {
        write!(self, deliveries::release(leases.to_vec()))
    }

    /// Deliveries counted by state, and the account of them, at one instant.
    pub async fn census(&self) -> Result<Census, StoreError> {
        read!(self, account::census())
    }

    /// Sums up the account's entries where there are many; it says the same as before.
    pub async fn balance(&self) -> Result<(), StoreError> {
        if read!(self, account::is_long())? { write!(self, account::balance(())) } else { Ok(()) }
    }

    // ---- what somebody must look at ----

    /// Raises alarms, each counted as often as it happened; says how many were not open before.
    pub async fn raise_alarms(&self, raised: Vec<Raised>) -> Result<u64, StoreError> {
        if raised.is_empty() { Ok(0) } else { write!(self, alarms::raise(raised)) }
    }

    /// Raises one to try out whether alarms arrive, with its record; the alarm as it stands.
    pub async fn try_alarm(&self, audit: AuditEntry) -> Result<AlarmRecord, StoreError> {
        write!(self, alarms::try_out(audit))
    }

    /// Makes these the only open alarms of their kinds: the others are over.
    pub async fn keep_alarms(&self, kinds: &'static [AlarmKind], open: Vec<Raised>) -> Result<(), StoreError> {
        let standing: Vec<AlarmRecord> = read!(self, alarms::open(kinds))?;
        let changes = Difference::of(&standing, &open) != Difference::default();
        if changes { write!(self, alarms::keep((kinds, open))) } else { Ok(()) }
    }

    /// Ends what nobody has raised for as long as its kind stays open by itself.
    pub async fn end_quiet_alarms(&self) -> Result<(), StoreError> {
        let now = self.now().await?;
        let is_over = |alarm: &AlarmRecord| alarm.kind.quiet_after().is_some_and(|after| alarm.last_at < now.minus(after));
        if self.open_alarms().await?.iter().any(is_over) { write!(self, alarms::end_quiet(())) } else { Ok(()) }
    }

    /// Every alarm that is open.
    pub async fn open_alarms(&self) -> Result<Vec<AlarmRecord>, StoreError> {
        read!(self, alarms::open(AlarmKind::ALL))
    }

    /// An alarm that somebody is to be told of now, if there is one, taken so that nobody else tells it meanwhile.
    pub async fn take_alarm(&self, hold: Duration) -> Result<Option<AlarmRecord>, StoreError> {
        if read!(self, alarms::is_due(&self.0.context))? { write!(self, alarms::take(hold)) } else { Ok(None) }
    }

    /// Notes what became of telling it.
    pub async fn alarm_told(&self, alarm: &AlarmRecord, told: Telling) -> Result<(), StoreError> {
        write!(self, alarms::told((alarm.clone(), told)))
    }

    /// Alarms, newest first.
    pub async fn alarms(&self, filter: AlarmFilter, page: Page) -> Result<Listed<AlarmRecord>, StoreError> {
        read!(self, alarms::listed(&filter, &page))
    }

    /// Deliveries of a logout that were settled after this position, in the order in which they were settled.
    pub async fn settled_after(&self, event: &EventId, after: &Cursor, limit: u16) -> Result<Vec<DeliveryView>, StoreError> {
        read!(self, deliveries::settled_after(event, after, limit))
    }

    /// Whether anything of a logout is still to come: a delivery of its own, one it adopted, or work that is not done.
    pub async fn is_open(&self, event: &EventId) -> Result<bool, StoreError> {
        read!(self, events::is_open(event))
    }

    // ---- chores and replicas ----

    /// Takes a chore, unless another process holds it or has done it for this time.
    pub async fn take_chore(&self, call: ChoreCall) -> Result<ChoreTurn, StoreError> {
        write!(self, chores::take(call))
    }

    /// Holds a chore for longer; false when another process took it.
    pub async fn hold_chore(&self, call: ChoreCall) -> Result<bool, StoreError> {
        write!(self, chores::hold_on(call))
    }

    /// Lets go of a chore; `done` is when it was taken, if it was done to its end.
    pub async fn leave_chore(&self, name: &'static str, holder: &ReplicaId, done: Option<Timestamp>) -> Result<(), StoreError> {
        write!(self, chores::let_go((name, holder.clone(), done)))
    }

    /// Says that this process lives, and tells all that were seen within that time, in the order of their ids.
    pub async fn beat(&self, id: &ReplicaId, within: Duration) -> Result<Vec<ReplicaId>, StoreError> {
        write!(self, replicas::beat((id.clone(), within)))
    }

    /// Says that this process ends.
    pub async fn leave(&self, id: &ReplicaId) -> Result<(), StoreError> {
        write!(self, replicas::leave(id.clone()))
    }

    // ---- the register ----

    /// Registers an issuer with its first keys.
    pub async fn create_issuer(&self, issuer: &IssuerRecord, keys: &[KeyRecord], audit: AuditEntry) -> Result<Change, StoreError> {
        write!(self, registry::create_issuer((issuer.clone(), keys.to_vec(), audit)))
    }

    /// Replaces an issuer whose stored version is still that of `issuer`, and adds keys for its new algorithms.
    pub async fn change_issuer(&self, issuer: &IssuerRecord, new_keys: &[KeyRecord], audit: AuditEntry) -> Result<Change, StoreError> {
        write!(self, registry::change_issuer((issuer.clone(), new_keys.to_vec(), audit)))
    }

    /// Deletes an issuer nothing of which lives. Its history stays readable by nobody, and its short id stays its own.
    pub async fn delete_issuer(&self, issuer: &IssuerId, audit: AuditEntry) -> Result<Change, StoreError> {
        write!(self, registry::delete_issuer((issuer.clone(), audit)))
    }

    /// A registered issuer.
    pub async fn issuer(&self, id: &IssuerId) -> Result<Option<IssuerRecord>, StoreError> {
        remember!(self, issuers, id, read!(self, registry::issuer(id)))
    }

    /// Registered issuers, newest first.
    pub async fn issuers(&self, page: Page) -> Result<Listed<IssuerRecord>, StoreError> {
        read!(self, registry::issuers(&page))
    }

    /// Registers a client or replaces its registration; `expected` is the version `If-Match` names.
    pub async fn put_client(
        &self,
        client: &ClientRecord,
        expected: Option<i64>,
        new_keys: &[KeyRecord],
        audit: AuditEntry,
    ) -> Result<Change, StoreError> {
        write!(self, registry::put_client((client.clone(), expected, new_keys.to_vec(), audit)))
    }

    /// A registered client.
    pub async fn client(&self, issuer: &IssuerId, id: &ClientId) -> Result<Option<ClientRecord>, StoreError> {
        read!(self, registry::client(issuer, id))
    }

    /// Registered clients, newest first.
    pub async fn clients(&self, issuer: &IssuerId, page: Page) -> Result<Listed<ClientRecord>, StoreError> {
        read!(self, registry::clients(issuer, &page))
    }

    /// What issuers trust beside the system's authorities.
    pub async fn issuers_certificates(&self) -> Result<Vec<Certificates>, StoreError> {
        read!(self, registry::issuers_certificates())
    }

    /// One page of what clients are shown and what is trusted for them, in the order of their names.
    pub async fn clients_certificates(&self, after: Option<&(IssuerId, ClientId)>, limit: u16) -> Result<Vec<Certificates>, StoreError> {
        read!(self, registry::clients_certificates(after, limit))
    }

    /// Deletes a client and revokes its grants (RFC 7592 2.3).
    pub async fn delete_client(
        &self,
        issuer: &IssuerId,
        id: &ClientId,
        expected: Option<i64>,
        pending: Pending,
        audit: AuditEntry,
    ) -> Result<Change, StoreError> {
        write!(self, registry::delete_client((issuer.clone(), id.clone(), expected, pending, audit)))
    }

    /// Everything that is declared, by its names.
    pub async fn declared(&self) -> Result<Vec<(IssuerId, Option<ClientId>)>, StoreError> {
        read!(self, registry::declared())
    }

    /// Lets an issuer, or a client, be changed by whoever administers; [`Change::Absent`] where it was not declared.
    pub async fn release_declared(&self, issuer: &IssuerId, client: Option<&ClientId>, audit: AuditEntry) -> Result<Change, StoreError> {
        write!(self, registry::release((issuer.clone(), client.cloned(), audit)))
    }

    /// An issuer's signing keys, the private halves sealed.
    pub async fn keys(&self, issuer: &IssuerId) -> Result<Vec<KeyRecord>, StoreError> {
        read!(self, keys::keys(issuer))
    }

    /// Lets a successor wait beside the active key; false when one waits already.
    pub async fn add_next_key(&self, key: KeyRecord, audit: AuditEntry) -> Result<bool, StoreError> {
        write!(self, keys::add_next((key, audit)))
    }

    /// Lets a `next` key sign and its predecessor cease; false when it is not `next` any more.
    pub async fn activate_key(&self, issuer: &IssuerId, kid: &str, audit: AuditEntry) -> Result<bool, StoreError> {
        write!(self, keys::activate((issuer.clone(), kid.to_owned(), audit)))
    }

    /// Puts a new key in the place of the active one and its successor, which are withdrawn.
    pub async fn replace_key_at_once(&self, key: KeyRecord, audit: AuditEntry) -> Result<(), StoreError> {
        write!(self, keys::replace_at_once((key, audit)))
    }

    /// Takes keys from outside, all or none.
    pub async fn import_keys(&self, keys: Vec<KeyRecord>, audit: AuditEntry) -> Result<Change, StoreError> {
        write!(self, keys::import((keys, audit)))
    }

    /// Ceases to publish a key that does not sign, and destroys its private half.
    pub async fn withdraw_key(&self, issuer: &IssuerId, kid: &str, audit: AuditEntry) -> Result<Change, StoreError> {
        write!(self, keys::withdraw((issuer.clone(), kid.to_owned(), audit)))
    }

    /// Forgets a withdrawn key.
    pub async fn forget_key(&self, issuer: &IssuerId, kid: &str) -> Result<bool, StoreError> {
        write!(self, keys::forget((issuer.clone(), kid.to_owned())))
    }

    /// Keeps what a provider published and which of our keys were among it; false when something later is kept.
    pub async fn saw_provider(&self, document: ProviderDocument, sightings: Vec<Sighting>) -> Result<bool, StoreError> {
        write!(self, keys::saw((document, sightings)))
    }

    /// Neither publishes nor believes a key of the provider's any more.
    pub async fn drop_provider_key(&self, issuer: &IssuerId, kid: &str, audit: AuditEntry) -> Result<Change, StoreError> {
        write!(self, keys::drop_provider_key((issuer.clone(), kid.to_owned(), audit)))
    }

    /// A page of sealed values of one kind, beyond one of them.
    pub async fn sealed_values(&self, kind: SealedKind, after: Option<&SealedValue>) -> Result<Vec<SealedValue>, StoreError> {
        read!(self, keys::sealed(kind, after))
    }

    /// Writes what was sealed anew, where it is still what it was; answers how much.
    pub async fn reseal(&self, values: Vec<Resealed>) -> Result<u64, StoreError> {
        write!(self, keys::reseal(values))
    }

    /// What an issuer's provider published when it was asked last.
    pub async fn provider_document(&self, issuer: &IssuerId) -> Result<Option<ProviderDocument>, StoreError> {
        read!(self, providers::document(issuer))
    }

    /// The names of a provider's keys that are neither published nor believed.
    pub async fn dropped_keys(&self, issuer: &IssuerId) -> Result<Vec<String>, StoreError> {
        read!(self, providers::dropped(issuer))
    }

    /// Registers an API token by its digest.
    pub async fn create_api_token(&self, token: &ApiTokenRecord, digest: Digest, audit: AuditEntry) -> Result<Change, StoreError> {
        write!(self, registry::create_api_token((token.clone(), digest, audit)))
    }

    /// An API token by its digest, expired and revoked ones too.
    pub async fn api_token(&self, digest: Digest) -> Result<Option<ShownApiToken>, StoreError> {
        remember!(self, api_tokens, &digest, read!(self, registry::api_token(digest)))
    }

    /// An API token by its identity, expired and revoked ones too.
    pub async fn api_token_named(&self, id: &ApiTokenId) -> Result<Option<ApiTokenRecord>, StoreError> {
        read!(self, registry::api_token_named(id))
    }

    /// API tokens, newest first.
    pub async fn api_tokens(&self, issuer: Option<&IssuerId>, page: Page) -> Result<Listed<ApiTokenRecord>, StoreError> {
        read!(self, registry::api_tokens(issuer, &page))
    }

    /// Whether anybody holds an API token of the role admin that is good.
    pub async fn has_administrator(&self) -> Result<bool, StoreError> {
        read!(self, registry::has_administrator(&self.0.context))
    }

    /// Writes down the hour in which a secret of an API token was last shown.
    pub async fn saw_api_token(&self, shown: ShownApiToken, at: Timestamp) -> Result<(), StoreError> {
        write!(self, registry::saw_api_token((shown, at)))
    }

    /// Gives an API token another secret; the one before is good for so long. None when it is not there, revoked or expired.
    pub async fn rotate_api_token(
        &self,
        id: &ApiTokenId,
        digest: Digest,
        overlap: Duration,
        audit: AuditEntry,
    ) -> Result<Option<ApiTokenRecord>, StoreError> {
        write!(self, registry::rotate_api_token((id.clone(), digest, overlap, audit)))
    }

    /// Revokes an API token.
    pub async fn revoke_api_token(&self, id: &ApiTokenId, audit: AuditEntry) -> Result<Change, StoreError> {
        write!(self, registry::revoke_api_token((id.clone(), audit)))
    }

    // ---- the audit trail ----

    /// The audit trail, newest first.
    pub async fn audit(&self, filter: AuditFilter, page: Page) -> Result<Listed<TrailRecord>, StoreError> {
        read!(self, audit::audit(&filter, &page))
    }

    /// How the trail stands.
    pub async fn trail_state(&self) -> Result<TrailState, StoreError> {
        read!(self, audit::state())
    }

    /// How it stands, with the keys as they were then.
    pub async fn trail_with_keys(&self) -> Result<(Vec<AuditKey>, TrailState), StoreError> {
        read!(self, audit::state_with_keys())
    }

    /// Records that are not sealed yet, the oldest first, behind a place among them.
    pub async fn unsealed_records(&self, after: Option<&Cursor>, limit: u16) -> Result<Vec<TrailRecord>, StoreError> {
        read!(self, audit::unsealed(after, limit))
    }

    /// Proves some of the records that were written before there was a trail; answers how many.
    pub async fn adopt_records(&self) -> Result<u64, StoreError> {
        write!(self, audit::adopt(()))
    }

    /// Audit records with a number that none was ever given, none unless somebody wrote beside the server.
    pub async fn stray_records(&self, limit: u16) -> Result<Vec<TrailRecord>, StoreError> {
        read!(self, audit::strays(limit))
    }

    /// Sealed records beyond a number, in the order of sealing.
    pub async fn sealed_records(&self, after: u64, limit: u16) -> Result<Vec<TrailRecord>, StoreError> {
        read!(self, audit::sealed(after, limit))
    }

    /// Heads over records beyond a number, up to another.
    pub async fn heads(&self, after: u64, to: u64) -> Result<Vec<Head>, StoreError> {
        read!(self, audit::heads(after, to))
    }

    /// The heads up to a number by which a key passed on to its successor, the oldest first.
    pub async fn announcements(&self, to: u64) -> Result<Vec<Head>, StoreError> {
        read!(self, audit::announcements(to))
    }

    /// The last head that was signed before an instant.
    pub async fn head_before(&self, before: Timestamp) -> Result<Option<Head>, StoreError> {
        read!(self, audit::head_before(before))
    }

    /// Links records to the chain and keeps the head over them; false when somebody else went on from there.
    pub async fn seal_records(&self, order: Sealing) -> Result<bool, StoreError> {
        write!(self, audit::seal(order))
    }

    /// Every key that signs the trail or did, the oldest first.
    pub async fn audit_keys(&self) -> Result<Vec<AuditKey>, StoreError> {
        read!(self, audit::keys())
    }

    /// Adds a key for the trail; false where one stands there already.
    pub async fn add_audit_key(&self, key: AuditKey, audit: AuditEntry) -> Result<bool, StoreError> {
        write!(self, audit::add_key((key, audit)))
    }

    /// Says, signed, up to where the trail is not kept any more.
    pub async fn keep_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError> {
        write!(self, audit::keep_checkpoint(checkpoint))
    }

    /// Removes some of what was sealed up to a number, behind a checkpoint; answers how many rows went.
    pub async fn purge_trail(&self, to: u64) -> Result<u64, StoreError> {
        write!(self, audit::purge(to))
    }

    /// Removes heads that later ones of the same hour make superfluous, of those signed before an instant; answers how many went.
    pub async fn thin_heads(&self, before: Timestamp) -> Result<u64, StoreError> {
        write!(self, audit::thin_heads(before))
    }

    /// A named value of the deployment, such as the sealing canary.
    pub async fn meta(&self, name: &str) -> Result<Option<String>, StoreError> {
        read!(self, meta::named(name))
    }

    /// Writes a named value once; what is stored then stays, and is returned.
    pub async fn meta_once(&self, name: &str, value: &str) -> Result<String, StoreError> {
        write!(self, meta::once((name.to_owned(), value.to_owned())))
    }

    /// Puts a named value in the place of the one expected there; false when it is another.
    pub async fn meta_swap(&self, name: &str, before: &str, after: &str) -> Result<bool, StoreError> {
        write!(self, meta::swap((name.to_owned(), before.to_owned(), after.to_owned())))
    }

    /// How the database would find the rows of its hot statements: (statement, plan).
    pub async fn explain(&self) -> Result<Vec<(&'static str, String)>, StoreError> {
        match &self.0.engine {
            Engine::Sqlite { read, .. } => sqlite::statements::explain::plans(&mut *read.acquire().await?, "EXPLAIN QUERY PLAN ").await,
            Engine::Postgres { pool, .. } => {
                let mut connection = pool.acquire().await?;
                // A test's tables are so small that a scan is cheaper than any index.
                sqlx::query("SET enable_seqscan = off").execute(&mut *connection).await?;
                let plans = postgres::statements::explain::plans(&mut connection, "EXPLAIN ").await;
                sqlx::query("RESET enable_seqscan").execute(&mut *connection).await?;
                plans
            }
        }
    }
}

/// How often a transaction is run again after a deadlock or a race.
const RERUNS_MAX: u32 = 5;

/// Runs a transaction on PostgreSQL in a task of its own, so that no caller can cancel its `begin`.
async fn transact<T, F>(pool: &PgPool, tasks: &TaskTracker, clock: Clock, work: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: for<'c> Fn(&'c mut sqlx::PgConnection) -> BoxFuture<'c, Result<Ending<T>, StoreError>> + Send + Sync + 'static,
{
    let pool = pool.clone();
    let task = tasks.spawn(async move {
        let mut runs = 0;
        loop {
            match transact_once(&pool, &clock, &work).await {
                Err(error) if runs < RERUNS_MAX && error.is_race() => runs += 1,
                outcome => return outcome,
            }
        }
    });
    task.await.map_err(|_| StoreError::panicked())?
}

async fn transact_once<T, F>(pool: &PgPool, clock: &Clock, work: &F) -> Result<T, StoreError>
where
    F: for<'c> Fn(&'c mut sqlx::PgConnection) -> BoxFuture<'c, Result<Ending<T>, StoreError>>,
{
    let mut transaction = pool.begin().await?;
    let begun = clock.instant();
    match work(&mut transaction).await? {
        Ending::Keep(value) => {
            transaction.commit().await?;
            GroupCommitted { size: 1, duration: clock.instant().saturating_duration_since(begun) }.emit();
            Ok(value)
        }
        Ending::Undo(value) => {
            transaction.rollback().await?;
            Ok(value)
        }
    }
}

/// Somebody else changed what was read before the locks were held: the transaction starts over.
#[derive(Debug, thiserror::Error)]
#[error("what was read changed before it was locked")]
struct Raced;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

impl StoreError {
    /// Tells the log and the metrics, once, where it is dealt with and nobody is answered with it.
    pub fn tell(&self, operation: &'static str) {
        let fault = match self {
            Self::Unavailable(_) | Self::Unread(_) => StoreFault::Unavailable,
            Self::Corrupt { .. } => StoreFault::Corrupt,
        };
        StoreFailed { operation, fault, error: self }.emit();
    }

    fn closed() -> Self {
        Self::Unavailable("the database is being closed".into())
    }

    fn deaf() -> Self {
        Self::Unavailable("the connection that hears notices was lost".into())
    }

    fn panicked() -> Self {
        Self::Unavailable("a transaction panicked and was undone".into())
    }

    fn unread(error: sqlx::Error) -> Self {
        Self::Unread(Box::new(error))
    }

    /// The same, where nothing was to be changed.
    fn while_reading(self) -> Self {
        match self {
            Self::Unavailable(cause) => Self::Unread(cause),
            other @ (Self::Unread(_) | Self::Corrupt { .. }) => other,
        }
    }

    /// What is wrong with the database, for whoever looks after it and for anybody who asks.
    pub fn ailment(&self) -> &'static str {
        match self {
            Self::Unavailable(cause) | Self::Unread(cause) => engine::fault_in(cause.as_ref()).told(),
            Self::Corrupt { .. } => engine::Fault::Damage.told(),
        }
    }

    fn raced() -> Self {
        Self::Unavailable(Box::new(Raced))
    }

    /// Deadlocks, serialisation failures, and names taken or forgotten between a look and a change: running again finds the other's work done.
    fn is_race(&self) -> bool {
        let Self::Unavailable(source) = self else { return false };
        let database = source.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
        source.is::<Raced>()
            || database.and_then(|error| error.code()).is_some_and(|code| matches!(&*code, "40001" | "40P01" | "23503" | "23505"))
    }
}
