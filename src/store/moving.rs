//! Moving a database from a SQLite file to PostgreSQL.
//!
//! What there is to move is read from the catalogue, so that a table of tomorrow is moved too: every table, ordered by what refers to what, in pages by row
//! number, each page one transaction with its position. Whoever is killed runs the same command again. Both sides carry a mark from the first page on, and
//! no server serves a database with one: there are never two truths. In the end the rows of both sides are counted and digested through one and the same
//! form; only then is the target's mark taken off. The source keeps its rows and its mark.

use std::collections::BTreeSet;
use std::hash::Hasher as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Postgres, QueryBuilder, Row as _, SqliteConnection};

use super::BACKUP_TAKEN_AT;
use super::engine::{self, ARRIVING, MOVE_ID, MOVED_AT, MOVED_TO, OpenError};
use crate::seams::{Clock, Entropy};

/// Why a database was not moved. Unless it says otherwise, the same command goes on where this one stopped.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// There is nothing to move.
    #[error("there is no database at {}", .0.display())]
    Absent(PathBuf),
    /// A server runs on the source, or a database could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file could not be read or marked.
    #[error("the database file {} could not be read", .0.display())]
    Source(PathBuf, #[source] sqlx::Error),
    /// The target could not be reached or written.
    #[error("the target could not be written: the same command goes on where this one stopped")]
    Target(#[source] sqlx::Error),
    /// One table could not be written.
    #[error("the table {table} could not be moved: the same command goes on where this one stopped")]
    Table {
        /// Which.
        table: String,
        /// Why not.
        source: sqlx::Error,
    },
    /// The source is of another version.
    #[error("{} has another schema than this version: bring it up to date with `logoutd migrate` first", .0.display())]
    Schema(PathBuf),
    /// Somebody else's rows are there.
    #[error("the target holds rows already (table {0}): move into an empty database")]
    NotEmpty(String),
    /// What is there is of another move.
    #[error("the target holds what another move began: finish that one, or move into an empty database")]
    OtherMove,
    /// Another process fills it.
    #[error("another move fills this target right now")]
    Busy,
    /// It was done before.
    #[error("{} was moved to {to} already", from.display())]
    Already {
        /// The source.
        from: PathBuf,
        /// Where it went.
        to: String,
    },
    /// A table is not there, or of another shape.
    #[error("the target's table {table} is not as the source's: {what}")]
    Shape {
        /// Which table.
        table: String,
        /// What differs.
        what: String,
    },
    /// Tables that refer to each other in a circle have no order.
    #[error("the tables {0} refer to each other in a circle")]
    Circle(String),
    /// The target is not what the source is.
    #[error("the target's table {table} is not what the source's is ({there} of {here} rows): empty the target and move again")]
    Differs {
        /// Which table.
        table: String,
        /// Rows of the source.
        here: u64,
        /// Rows of the target.
        there: u64,
    },
    /// The file is no moved one.
    #[error("{} was not moved: there is no mark to take off", .0.display())]
    NotMoved(PathBuf),
}

/// What is moved, and how.
#[derive(Clone, Debug)]
pub struct MoveOrder {
    /// The SQLite file.
    pub from: PathBuf,
    /// The URL of the PostgreSQL database.
    pub to: String,
    /// The same for people to see, without its password.
    pub shown: String,
    /// How many rows one transaction carries.
    pub page_rows: u16,
}

/// One table, moved and compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMoved {
    /// Its name.
    pub table: String,
    /// How many rows it has, on both sides.
    pub rows: u64,
    /// The sum of the digests of its rows, on both sides.
    pub digest: String,
}

/// Moves everything, or goes on with it, and compares both sides.
pub async fn move_all(order: &MoveOrder, clock: &Clock, entropy: &Entropy) -> Result<Vec<TableMoved>, MoveError> {
    if !order.from.is_file() {
        return Err(MoveError::Absent(order.from.clone()));
    }
    let _held = engine::hold(&order.from)?;
    let of_source = |error| MoveError::Source(order.from.clone(), error);
    let mut source = open_source(&order.from).await.map_err(of_source)?;
    if !engine::is_of_this_schema(&mut source).await.map_err(of_source)? {
        return Err(MoveError::Schema(order.from.clone()));
    }
    let tables = ordered(catalogue(&mut source).await.map_err(of_source)?)?;
    let mut target = open_target(&order.to).await?;
    compare_shapes(&mut target, &tables).await?;
    begin(&mut source, &mut target, order, &tables, entropy).await?;
    for table in &tables {
        copy(&mut source, &mut target, table, order).await?;
    }
    let moved = compare(&mut source, &mut target, order, &tables).await?;
    // The source first: who is killed between the two finds a target that still waits for its end.
    note(&mut source, MOVED_AT, &clock.now().millis().to_string()).await.map_err(of_source)?;
    finish(&mut target).await.map_err(MoveError::Target)?;
    drop(source.close().await);
    drop(target.close().await);
    Ok(moved)
}

/// Takes the mark off a source, so that it is served again. Whatever happened at the target since it was moved, this file does not know: the next start
/// opens a gap from then on.
pub async fn release(from: &Path) -> Result<(), MoveError> {
    if !from.is_file() {
        return Err(MoveError::Absent(from.to_owned()));
    }
    let _held = engine::hold(from)?;
    let failed = |error| MoveError::Source(from.to_owned(), error);
    let mut source = open_source(from).await.map_err(failed)?;
    if noted(&mut source, MOVED_TO).await.map_err(failed)?.is_none() {
        return Err(MoveError::NotMoved(from.to_owned()));
    }
    let mut changes = source.begin().await.map_err(failed)?;
    if let Some(moved_at) = noted(&mut changes, MOVED_AT).await.map_err(failed)? {
        note(&mut changes, BACKUP_TAKEN_AT, &moved_at).await.map_err(failed)?;
    }
    for mark in [MOVE_ID, MOVED_TO, MOVED_AT] {
        sqlx::query("DELETE FROM meta WHERE name = $1").bind(mark).execute(&mut *changes).await.map_err(failed)?;
    }
    changes.commit().await.map_err(failed)?;
    drop(source.close().await);
    Ok(())
}

// ---- the two sides ----

async fn open_source(from: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(from)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5));
    options.connect().await
}

async fn open_target(url: &str) -> Result<PgConnection, MoveError> {
    let options = PgConnectOptions::from_str(url).map_err(MoveError::Target)?.application_name("logoutd move");
    let mut target = options.connect().await.map_err(MoveError::Target)?;
    engine::refuse_lazy_postgres(&mut target).await?;
    engine::migrate_postgres(&mut target).await?;
    let alone: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended('logoutd move ' || current_schema(), 0))")
        .fetch_one(&mut target)
        .await
        .map_err(MoveError::Target)?;
    if alone { Ok(target) } else { Err(MoveError::Busy) }
}

async fn noted(source: &mut SqliteConnection, name: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT value FROM meta WHERE name = $1").bind(name).fetch_optional(source).await
}

async fn note(source: &mut SqliteConnection, name: &str, value: &str) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value")
        .bind(name)
        .bind(value)
        .execute(source)
        .await
        .map(drop)
}

// ---- what there is ----

/// What a column holds, by its declared type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Boolean,
    Octets,
}

impl Kind {
    fn of_sqlite(declared: &str) -> Option<Self> {
        match declared {
            "TEXT" => Some(Self::Text),
            "BIGINT" => Some(Self::Integer),
            "BOOLEAN" => Some(Self::Boolean),
            "BLOB" => Some(Self::Octets),
            _ => None,
        }
    }

    const fn in_postgres(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "bigint",
            Self::Boolean => "boolean",
            Self::Octets => "bytea",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    name: String,
    columns: Vec<(String, Kind)>,
    refers_to: BTreeSet<String>,
}

impl Table {
    fn column_list(&self) -> String {
        self.columns.iter().map(|(name, _)| quoted(name)).collect::<Vec<_>>().join(", ")
    }

    /// What of it is moved: the marks of a move, and the lock of migrations, belong to their side.
    fn rows(&self) -> &'static str {
        if self.name == "meta" { " name NOT IN ('move_id', 'moved_to', 'moved_at', 'arriving')" } else { " TRUE" }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The source's tables, but those of the migrations.
async fn catalogue(source: &mut SqliteConnection) -> Result<Vec<Table>, sqlx::Error> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_sqlx\\_%' ESCAPE '\\'
          ORDER BY name",
    )
    .fetch_all(&mut *source)
    .await?;
    let mut tables = Vec::with_capacity(names.len());
    for name in names {
        let declared: Vec<(String, String)> =
            sqlx::query_as("SELECT name, type FROM pragma_table_info($1) ORDER BY cid").bind(&name).fetch_all(&mut *source).await?;
        let columns = declared.into_iter().map(|(column, declared)| match Kind::of_sqlite(&declared) {
            Some(kind) => Ok((column, kind)),
            None => Err(sqlx::Error::ColumnNotFound(format!("{name}.{column}, of a type that is not known: {declared}"))),
        });
        let columns = columns.collect::<Result<_, _>>()?;
        let refers_to: Vec<String> =
            sqlx::query_scalar("SELECT DISTINCT \"table\" FROM pragma_foreign_key_list($1)").bind(&name).fetch_all(&mut *source).await?;
        let refers_to = refers_to.into_iter().filter(|other| *other != name).collect();
        tables.push(Table { name, columns, refers_to });
    }
    Ok(tables)
}

/// What is referred to comes before what refers to it.
fn ordered(mut tables: Vec<Table>) -> Result<Vec<Table>, MoveError> {
    let mut ordered: Vec<Table> = Vec::with_capacity(tables.len());
    while !tables.is_empty() {
        let done: BTreeSet<&str> = ordered.iter().map(|table| table.name.as_str()).collect();
        let (ready, waiting): (Vec<Table>, Vec<Table>) =
            tables.into_iter().partition(|table| table.refers_to.iter().all(|other| done.contains(other.as_str())));
        if ready.is_empty() {
            return Err(MoveError::Circle(waiting.into_iter().map(|table| table.name).collect::<Vec<_>>().join(", ")));
        }
        ordered.extend(ready);
        tables = waiting;
    }
    Ok(ordered)
}

/// Every table and column of the source is there, of the same kind.
async fn compare_shapes(target: &mut PgConnection, tables: &[Table]) -> Result<(), MoveError> {
    let found: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT), CAST(data_type AS TEXT) FROM information_schema.columns
          WHERE table_schema = current_schema()",
    )
    .fetch_all(target)
    .await
    .map_err(MoveError::Target)?;
    let found: BTreeSet<(&str, &str, &str)> =
        found.iter().map(|(table, column, kind)| (table.as_str(), column.as_str(), kind.as_str())).collect();
    for table in tables {
        for (column, kind) in &table.columns {
            if !found.contains(&(table.name.as_str(), column.as_str(), kind.in_postgres())) {
                let what = format!("a column {column} of type {} is missing", kind.in_postgres());
                return Err(MoveError::Shape { table: table.name.clone(), what });
            }
        }
    }
    Ok(())
}

// ---- begin and end ----

/// Marks both sides, or finds them marked by the same move.
async fn begin(
    source: &mut SqliteConnection,
    target: &mut PgConnection,
    order: &MoveOrder,
    tables: &[Table],
    entropy: &Entropy,
) -> Result<(), MoveError> {
    let of_source = |error| MoveError::Source(order.from.clone(), error);
    let known = noted(source, MOVE_ID).await.map_err(of_source)?;
    let arriving: Option<String> = sqlx::query_scalar("SELECT value FROM meta WHERE name = $1")
        .bind(ARRIVING)
        .fetch_optional(&mut *target)
        .await
        .map_err(MoveError::Target)?;
    match (&known, arriving) {
        (Some(known), Some(arriving)) if *known == arriving => return Ok(()),
        (_, Some(_)) => return Err(MoveError::OtherMove),
        (_, None) => {}
    }
    if noted(source, MOVED_AT).await.map_err(of_source)?.is_some() {
        let to = noted(source, MOVED_TO).await.map_err(of_source)?.unwrap_or_default();
        return Err(MoveError::Already { from: order.from.clone(), to });
    }
    for table in tables {
        let any = format!("SELECT 1 FROM {} LIMIT 1", quoted(&table.name));
        let any: Option<i32> = sqlx::query_scalar(AssertSqlSafe(any)).fetch_optional(&mut *target).await.map_err(MoveError::Target)?;
        if any.is_some() {
            return Err(MoveError::NotEmpty(table.name.clone()));
        }
    }
    let id = known.unwrap_or_else(|| format!("{:016x}", entropy.number()));
    note(source, MOVED_TO, &order.shown).await.map_err(of_source)?;
    note(source, MOVE_ID, &id).await.map_err(of_source)?;
    mark_target(target, &id).await.map_err(MoveError::Target)
}

async fn mark_target(target: &mut PgConnection, id: &str) -> Result<(), sqlx::Error> {
    let mut changes = target.begin().await?;
    sqlx::query("CREATE TABLE move_progress (name TEXT PRIMARY KEY, position BIGINT NOT NULL, copied BIGINT NOT NULL)")
        .execute(&mut *changes)
        .await?;
    sqlx::query("INSERT INTO meta (name, value) VALUES ($1, $2)").bind(ARRIVING).bind(id).execute(&mut *changes).await?;
    changes.commit().await
}

async fn finish(target: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut changes = target.begin().await?;
    sqlx::query("DROP TABLE move_progress").execute(&mut *changes).await?;
    sqlx::query("DELETE FROM meta WHERE name = $1").bind(ARRIVING).execute(&mut *changes).await?;
    changes.commit().await
}

// ---- rows ----

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(Option<String>),
    Integer(Option<i64>),
    Boolean(Option<bool>),
    Octets(Option<Vec<u8>>),
}

/// Reads a row's values, the first of them at `from`; the same text for both engines' rows.
macro_rules! values {
    ($row:expr, $table:expr, $from:expr) => {
        $table
            .columns
            .iter()
            .enumerate()
            .map(|(at, (_, kind))| {
                let at = at + $from;
                Ok(match kind {
                    Kind::Text => Value::Text($row.try_get(at)?),
                    Kind::Integer => Value::Integer($row.try_get(at)?),
                    Kind::Boolean => Value::Boolean($row.try_get(at)?),
                    Kind::Octets => Value::Octets($row.try_get(at)?),
                })
            })
            .collect::<Result<Vec<Value>, sqlx::Error>>()
    };
}

/// How many parameters one statement of PostgreSQL's takes.
const PARAMETERS_MAX: usize = 60_000;

/// Copies a table from where it stands to its end, a page in each transaction.
async fn copy(source: &mut SqliteConnection, target: &mut PgConnection, table: &Table, order: &MoveOrder) -> Result<(), MoveError> {
    let of_table = |source| MoveError::Table { table: table.name.clone(), source };
    let position: Option<i64> = sqlx::query_scalar("SELECT position FROM move_progress WHERE name = $1")
        .bind(&table.name)
        .fetch_optional(&mut *target)
        .await
        .map_err(of_table)?;
    let mut position = position.unwrap_or(i64::MIN);
    let rows_max = usize::from(order.page_rows).min(PARAMETERS_MAX / table.columns.len().max(1)).max(1);
    let text = format!(
        "SELECT rowid, {} FROM {} WHERE rowid > $1 AND{} ORDER BY rowid LIMIT {rows_max}",
        table.column_list(),
        quoted(&table.name),
        table.rows(),
    );
    loop {
        let rows: Vec<SqliteRow> = sqlx::query(AssertSqlSafe(text.clone()))
            .bind(position)
            .fetch_all(&mut *source)
            .await
            .map_err(|error| MoveError::Source(order.from.clone(), error))?;
        let Some(last) = rows.last() else { return Ok(()) };
        position = last.try_get(0).map_err(of_table)?;
        let values = rows.iter().map(|row| values!(row, table, 1)).collect::<Result<Vec<_>, _>>().map_err(of_table)?;
        write_page(target, table, values, position).await.map_err(of_table)?;
    }
}

async fn write_page(target: &mut PgConnection, table: &Table, rows: Vec<Vec<Value>>, position: i64) -> Result<(), sqlx::Error> {
    let copied = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let mut sql: QueryBuilder<Postgres> = QueryBuilder::new(format!("INSERT INTO {} ({}) ", quoted(&table.name), table.column_list()));
    sql.push_values(rows, |mut line, row| {
        for value in row {
            match value {
                Value::Text(text) => line.push_bind(text),
                Value::Integer(number) => line.push_bind(number),
                Value::Boolean(boolean) => line.push_bind(boolean),
                Value::Octets(octets) => line.push_bind(octets),
            };
        }
    });
    let mut changes = target.begin().await?;
    sql.build().execute(&mut *changes).await?;
    sqlx::query(
        "INSERT INTO move_progress AS p (name, position, copied) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET position = excluded.position, copied = p.copied + excluded.copied",
    )
    .bind(&table.name)
    .bind(position)
    .bind(copied)
    .execute(&mut *changes)
    .await?;
    changes.commit().await
}

// ---- the comparison ----

/// The rows of a table in whatever order: how many, and the sum of their digests. It finds what went wrong by accident, and is no defence against malice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    rows: u64,
    digest: u128,
}

impl Sum {
    fn add(&mut self, row: &[Value]) {
        // The standard hasher with its fixed keys: both sides are digested by one process.
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(&form(row));
        self.rows += 1;
        self.digest = self.digest.wrapping_add(u128::from(hasher.finish()));
    }
}

/// A row as octets that no other row has: each value with its kind and its length.
fn form(row: &[Value]) -> Vec<u8> {
    let mut form = Vec::new();
    for value in row {
        let (kind, octets): (u8, Option<Vec<u8>>) = match value {
            Value::Text(text) => (b't', text.as_ref().map(|text| text.as_bytes().to_vec())),
            Value::Integer(number) => (b'i', number.map(|number| number.to_be_bytes().to_vec())),
            Value::Boolean(boolean) => (b'b', boolean.map(|boolean| vec![u8::from(boolean)])),
            Value::Octets(octets) => (b'o', octets.clone()),
        };
        form.push(kind);
        form.extend(octets.as_ref().map_or(-1, |octets| i64::try_from(octets.len()).unwrap_or(i64::MAX)).to_be_bytes());
        form.extend(octets.unwrap_or_default());
    }
    form
}

async fn compare(
    source: &mut SqliteConnection,
    target: &mut PgConnection,
    order: &MoveOrder,
    tables: &[Table],
) -> Result<Vec<TableMoved>, MoveError> {
    let mut moved = Vec::with_capacity(tables.len());
    for table in tables {
        let text = format!("SELECT {} FROM {} WHERE{}", table.column_list(), quoted(&table.name), table.rows());
        let here = sum_of_source(source, table, text.clone()).await.map_err(|error| MoveError::Source(order.from.clone(), error))?;
        let there = sum_of_target(target, table, text).await.map_err(MoveError::Target)?;
        if here != there {
            return Err(MoveError::Differs { table: table.name.clone(), here: here.rows, there: there.rows });
        }
        moved.push(TableMoved { table: table.name.clone(), rows: here.rows, digest: format!("{:016x}", here.digest) });
    }
    Ok(moved)
}

async fn sum_of_source(source: &mut SqliteConnection, table: &Table, text: String) -> Result<Sum, sqlx::Error> {
    let mut sum = Sum::default();
    let mut rows = sqlx::query(AssertSqlSafe(text)).fetch(source);
    while let Some(row) = rows.try_next().await? {
        let row: SqliteRow = row;
        sum.add(&values!(row, table, 0)?);
    }
    Ok(sum)
}

async fn sum_of_target(target: &mut PgConnection, table: &Table, text: String) -> Result<Sum, sqlx::Error> {
    let mut sum = Sum::default();
    let mut rows = sqlx::query(AssertSqlSafe(text)).fetch(target);
    while let Some(row) = rows.try_next().await? {
        let row: PgRow = row;
        sum.add(&values!(row, table, 0)?);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, refers_to: &[&str]) -> Table {
        Table { name: name.to_owned(), columns: Vec::new(), refers_to: refers_to.iter().map(|other| (*other).to_owned()).collect() }
    }

    #[test]
    fn what_is_referred_to_comes_first_and_a_circle_is_told() {
        let names = |tables: Vec<Table>| tables.into_iter().map(|table| table.name).collect::<Vec<_>>();
        let tables = vec![table("a", &["b", "c"]), table("b", &["c"]), table("c", &[]), table("d", &["a"])];
        assert_eq!(names(ordered(tables).unwrap()), ["c", "b", "a", "d"]);
        let circle = ordered(vec![table("a", &["b"]), table("b", &["a"]), table("c", &[])]).unwrap_err();
        assert_eq!(circle.to_string(), "the tables a, b refer to each other in a circle");
    }

    #[test]
    fn a_sum_knows_no_order_and_every_difference() {
        let text = |text: &str| Value::Text(Some(text.to_owned()));
        let rows = [
            vec![text("a"), Value::Integer(Some(1))],
            vec![text("b"), Value::Integer(None)],
            vec![text(""), Value::Boolean(Some(true)), Value::Octets(Some(vec![0]))],
        ];
        let sum = |rows: &[Vec<Value>]| {
            let mut sum = Sum::default();
            rows.iter().for_each(|row| sum.add(row));
            sum
        };
        let mut turned = rows.clone();
        turned.reverse();
        assert_eq!(sum(&rows), sum(&turned));
        let others = [
            vec![text("ab")],
            vec![text("a"), text("b")],
            vec![Value::Text(None)],
            vec![text("")],
            vec![Value::Integer(Some(0))],
            vec![Value::Boolean(Some(false))],
            vec![Value::Octets(Some(Vec::new()))],
            vec![Value::Octets(None)],
        ];
        let forms: BTreeSet<Vec<u8>> = others.iter().map(|row| form(row)).collect();
        assert_eq!(forms.len(), others.len());
    }

    #[tokio::test]
    async fn every_table_of_the_schema_has_columns_of_kinds_that_can_be_moved_and_an_order() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("logoutd.db").display());
        let settings = super::super::StoreSettings { url, max_connections: 1, statement_timeout: Duration::from_secs(5) };
        let mut opened = engine::open_sqlite(&settings).await.unwrap();
        let tables = ordered(catalogue(&mut opened.write).await.unwrap()).unwrap();
        let at = |name: &str| tables.iter().position(|table| table.name == name).unwrap();
        assert!(at("issuers") < at("sessions") && at("sessions") < at("participants") && at("grants") < at("refresh_tokens"), "{tables:?}");
        assert!(tables.iter().all(|table| !table.columns.is_empty() && !table.name.starts_with('_')), "{tables:?}");
    }
}
