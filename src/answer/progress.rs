//! A logout's progress as it happens, in Server-Sent Events.
//!
//! One event for each delivery that is settled, then the receipt. A follower looks in the database when something was settled, here or in another
//! process, and from time to time in any case; in between he holds no connection to it. Replicas' commits become visible out of order, so each look now
//! and then begins a little before what was sent last; what was sent already is remembered for as long. After a reconnection nothing is remembered, and
//! what was settled shortly before `Last-Event-ID` may be sent again. A follower whose API token is not good any more is left at the next look. A delivery whose outcome was written later than that after it was settled, because
//! its process could not reach the database, is told by the receipt alone.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa_axum::routes;

use super::receipts::owns;
use crate::http::shapes::{DeliveryShape, Kept, ReceiptShape};
use crate::http::streams::{Full, Place};
use crate::http::{AppState, At, Code, Path, Problem, ProblemDocument, Routes, Seat, Vigil, needs};
use crate::model::delivery::DeliveryView;
use crate::model::event::EventState;
use crate::model::page::Cursor;
use crate::model::{DeliveryId, EventId, IssuerId, Timestamp};
use crate::store::StoreError;

/// By how much replicas' commits may be out of order.
const OVERLAP: Duration = Duration::from_secs(15);
/// How often a look begins that much earlier.
const OVERLAP_EVERY: Duration = Duration::from_secs(5);
/// How many deliveries are read at once.
const PAGE: u16 = 500;
/// How soon a follower looks again, however often something is settled meanwhile.
const PAUSE: Duration = Duration::from_millis(100);
/// How many times as long as a look took he waits before the next: a look at a huge logout is not cheap.
const PAUSE_PER_LOOK: u32 = 10;
/// How late he looks again when nothing is heard.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often he is sent a comment when there is nothing to tell, so that nothing in between takes the connection for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long one follows at most; whoever comes again with `Last-Event-ID` shows his token again.
const FOLLOWED_MAX: Duration = Duration::from_hours(1);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Asks nginx and its kind to pass each event on at once.
const UNBUFFERED: (HeaderName, HeaderValue) = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// The window on progress.
pub fn routes() -> Routes {
    Routes::new().add(routes!(follow_logout))
}

/// Follow a logout: an event `settled` for each delivery that is settled, those so far first, and an event `end` with the receipt when nothing is open.
///
/// The id of an event says where to go on; send it as `Last-Event-ID`, as browsers do. What was settled in the 15 s before it may come again. Open
/// deliveries of earlier logouts keep this one open and have no events here. What the provider is told has one, with the kind `provider`. A stream is ended after an hour, when the token is not good any more, and when the server stops: come again. One token may follow a fifth of what
/// all may (`http.streams_max`).
#[utoipa::path(get, path = "/v1/issuers/{iss}/logouts/{id}/events", tag = "logouts", operation_id = "followLogout", security(("bearer" = [])),
    params(
        ("iss" = String, Path, description = "The issuer's short id."),
        ("id" = String, Path, description = "The logout."),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was received."),
    ),
    responses(
        (status = 200, description = "Events, whose data are a delivery (`settled`) or the receipt (`end`).", body = String, content_type = "text/event-stream"),
        (status = "default", description = "A problem.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn follow_logout(
    State(app): State<AppState>,
    at: At<needs::ReadLogouts>,
    Path((_, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let unknown = || Problem::of(Code::UnknownLogout);
    let id = EventId::parse(&id).ok_or_else(unknown)?;
    let Seat { caller, issuer } = at.0;
    let last = last_event_id(&headers)?;
    if app.store.event_caller(&issuer.id, &id).await?.is_none() || !owns(&app, &caller, &issuer.id, &id).await? {
        return Err(unknown());
    }
    let place = app.streams.take(&caller.identity).map_err(full)?;
    let vigil = Vigil::over(&headers).ok_or_else(unknown)?;
    let follower = Follower::new(app, issuer.id, id, last, (place, vigil));
    let events = Sse::new(follower.events()).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    // A receipt of the moment: nobody in between keeps it.
    Ok(([(CACHE_CONTROL, HeaderValue::from_static("no-store")), UNBUFFERED], events).into_response())
}

fn full(full: Full) -> Problem {
    Problem::new(
        Code::Unavailable,
        match full {
            Full::All => "too many logouts are being followed: come again, or read the receipt",
            Full::Own => "this credential follows as many logouts as one may: end one, or read the receipt",
        },
    )
}

/// Where the caller wants to go on; none without the header.
fn last_event_id(headers: &HeaderMap) -> Result<Option<Cursor>, Problem> {
    let mut given = headers.get_all(LAST_EVENT_ID).iter();
    let refused = || Problem::invalid_header(&LAST_EVENT_ID, "must be the id of an event of this stream");
    match (given.next(), given.next()) {
        (None, _) => Ok(None),
        (Some(id), None) => id.to_str().ok().and_then(read_id).map(Some).ok_or_else(refused),
        (Some(_), Some(_)) => Err(refused()),
    }
}

/// `1790000000123.01ARZ3NDEKTSV4RRFFQ69G5FAV`.
fn read_id(text: &str) -> Option<Cursor> {
    let (millis, id) = text.split_once('.')?;
    let legal = (1..=15).contains(&millis.len()) && millis.bytes().all(|octet| octet.is_ascii_digit());
    let at = Timestamp::from_millis(millis.parse().ok().filter(|_| legal)?);
    Some(Cursor { at, id: DeliveryId::parse(id)?.to_string() })
}

fn write_id(cursor: &Cursor) -> String {
    format!("{}.{}", cursor.at.millis(), cursor.id)
}

/// What was sent, as far as it may be read again.
#[derive(Debug)]
struct Sent {
    /// The latest.
    latest: Cursor,
    /// Those within the overlap before it.
    recent: BTreeSet<(Timestamp, String)>,
}

impl Sent {
    fn up_to(last: Option<Cursor>) -> Self {
        let recent = last.iter().map(|cursor| (cursor.at, cursor.id.clone())).collect();
        Self { latest: last.unwrap_or(Cursor { at: Timestamp::from_millis(0), id: String::new() }), recent }
    }

    /// Before everything that may have become visible since it was looked for.
    fn overlap(&self) -> Cursor {
        Cursor { at: self.latest.at.minus(OVERLAP), id: String::new() }
    }

    /// Notes that this is sent; false when it was before.
    fn is_news(&mut self, cursor: &Cursor) -> bool {
        let news = self.recent.insert((cursor.at, cursor.id.clone()));
        if (self.latest.at, &self.latest.id) < (cursor.at, &cursor.id) {
            self.latest = cursor.clone();
        }
        news
    }

    /// Forgets what is never read again.
    fn forget(&mut self) {
        self.recent = self.recent.split_off(&(self.overlap().at, String::new()));
    }
}

/// One look at what was settled, page by page.
#[derive(Clone, Debug)]
struct Look {
    from: Cursor,
    standing: Standing,
}

/// How the logout stood when a look began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Open,
    /// Everything that was to come has come, so a look that overlaps sees the rest.
    Over,
}

struct Follower {
    app: AppState,
    issuer: IssuerId,
    event: EventId,
    settled: watch::Receiver<u64>,
    sent: Sent,
    look: Option<Look>,
    overlapped: Option<Instant>,
    ready: VecDeque<Event>,
    pause: Duration,
    leave: Instant,
    is_over: bool,
    vigil: Vigil,
    _place: Place,
}

impl Follower {
    fn new(app: AppState, issuer: IssuerId, event: EventId, last: Option<Cursor>, (place, vigil): (Place, Vigil)) -> Self {
        Self {
            settled: app.settled.subscribe(),
            sent: Sent::up_to(last),
            look: None,
            overlapped: None,
            ready: VecDeque::new(),
            pause: Duration::ZERO,
            leave: Instant::now() + FOLLOWED_MAX,
            is_over: false,
            vigil,
            _place: place,
            app,
            issuer,
            event,
        }
    }

    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> + Send + 'static {
        stream::unfold(self, async |mut follower| {
            let event = follower.next().await?;
            Some((Ok(event), follower))
        })
    }

    /// The next event; none when there are no more, or when the server stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let stops = self.app.tasks.stop().is_requested();
            if self.is_over || stops || (self.look.is_none() && self.wait().await == Wait::Leave) {
                return None;
            }
            if let Err(error) = self.step().await {
                error.tell("follow");
                self.look = None;
                self.pause = PAUSE_MAX;
            }
        }
    }

    /// Waits until there may be something new, not at all at first.
    async fn wait(&mut self) -> Wait {
        let pause = std::mem::replace(&mut self.pause, PAUSE);
        let news = async {
            tokio::time::sleep(pause).await;
            if !pause.is_zero() {
                // Whether it changed or was not heard to: it is time to look.
                drop(tokio::time::timeout(PAUSE_MAX, self.settled.changed()).await);
            }
        };
        tokio::select! {
            () = news => Wait::Look,
            () = self.app.tasks.stop().requested() => Wait::Leave,
            () = tokio::time::sleep_until(self.leave) => Wait::Leave,
        }
    }

    /// Reads one page, and what it takes to begin and to end a look.
    async fn step(&mut self) -> Result<(), StoreError> {
        let begun = Instant::now();
        let Look { from, standing } = match self.look.take() {
            Some(look) => look,
            None => self.begin().await?,
        };
        if self.is_over {
            return Ok(());
        }
        let page = self.app.store.settled_after(&self.event, &from, PAGE).await?;
        let (is_last, last) = (page.len() < usize::from(PAGE), page.last().and_then(position));
        page.into_iter().for_each(|view| self.send(view));
        self.sent.forget();
        match (is_last, last) {
            (false, Some(from)) => self.look = Some(Look { from, standing }),
            (true, _) | (false, None) if standing == Standing::Over => self.end().await?,
            (true, _) | (false, None) => {}
        }
        self.pause = (begun.elapsed() * PAUSE_PER_LOOK).max(PAUSE);
        Ok(())
    }

    async fn begin(&mut self) -> Result<Look, StoreError> {
        // Each time, since a follower stays long after he was let in.
        if self.vigil.is_over(&self.app).await? {
            self.is_over = true;
        }
        // Marked as seen before it is looked for: what is settled in between is not missed.
        self.settled.mark_unchanged();
        let standing = if self.app.store.is_open(&self.event).await? { Standing::Open } else { Standing::Over };
        let is_time = self.overlapped.is_none_or(|at| at.elapsed() >= OVERLAP_EVERY);
        if standing == Standing::Open && !is_time {
            return Ok(Look { from: self.sent.latest.clone(), standing });
        }
        self.overlapped = Some(Instant::now());
        Ok(Look { from: self.sent.overlap(), standing })
    }

    fn send(&mut self, view: DeliveryView) {
        let Some(cursor) = position(&view).filter(|cursor| self.sent.is_news(cursor)) else { return };
        let event = Event::default().id(write_id(&cursor)).event("settled");
        self.ready.extend(with_data(event, &DeliveryShape::from(view)));
    }

    /// The receipt, unless something was opened again meanwhile.
    async fn end(&mut self) -> Result<(), StoreError> {
        let Some(receipt) = self.app.store.receipt(&self.issuer, &self.event).await? else {
            self.is_over = true;
            return Ok(());
        };
        if receipt.state == EventState::Settled {
            self.ready.extend(with_data(Event::default().event("end"), &ReceiptShape::whole(receipt, Kept::Committed)?));
            self.is_over = true;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Look,
    Leave,
}

fn position(view: &DeliveryView) -> Option<Cursor> {
    Some(Cursor { at: view.settled_at?, id: view.id.to_string() })
}

/// None for what cannot be written as JSON, which these shapes always can.
fn with_data(event: Event, data: &impl Serialize) -> Option<Event> {
    event.json_data(data).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn cursor(millis: i64, id: &str) -> Cursor {
        Cursor { at: Timestamp::from_millis(millis), id: id.to_owned() }
    }

    #[test]
    fn an_event_s_id_reads_back_and_any_other_text_is_refused() {
        let known = cursor(1_790_000_000_123, ID);
        assert_eq!(read_id(&write_id(&known)), Some(known));
        for text in [
            "",
            ".",
            "1",
            &format!("-1.{ID}"),
            &format!("+1.{ID}"),
            &format!("1234567890123456.{ID}"),
            "1.x",
            &format!("1.{ID}x"),
            &format!("1 .{ID}"),
        ] {
            assert_eq!(read_id(text), None, "{text}");
        }
    }

    #[test]
    fn a_header_that_comes_twice_or_is_no_id_is_a_problem() {
        let headers = |values: &[&'static str]| -> HeaderMap {
            values.iter().map(|value| (LAST_EVENT_ID, HeaderValue::from_static(value))).collect()
        };
        assert_eq!(last_event_id(&headers(&[])).unwrap(), None);
        assert!(last_event_id(&headers(&["1.01ARZ3NDEKTSV4RRFFQ69G5FAV"])).unwrap().is_some());
        for wrong in [&["a"][..], &[""], &["1.01ARZ3NDEKTSV4RRFFQ69G5FAV", "1.01ARZ3NDEKTSV4RRFFQ69G5FAV"]] {
            assert_eq!(last_event_id(&headers(wrong)).unwrap_err().code(), Code::InvalidHeader, "{wrong:?}");
        }
    }

    #[test]
    fn what_becomes_visible_late_is_news_once_and_what_was_sent_is_not() {
        let mut sent = Sent::up_to(None);
        assert!(sent.is_news(&cursor(20_000, "b")));
        assert_eq!(sent.overlap().at, Timestamp::from_millis(5000));
        assert!(!sent.is_news(&cursor(20_000, "b")));
        assert!(sent.is_news(&cursor(19_000, "a")), "another replica's commit became visible later");
        assert_eq!(sent.latest, cursor(20_000, "b"));
        assert!(sent.is_news(&cursor(20_000, "c")));
        assert!(!sent.is_news(&cursor(19_000, "a")), "nor is it when it is read again");
        assert!(sent.is_news(&cursor(21_000, "b")), "a delivery that was reopened settles once more");
        assert!(sent.is_news(&cursor(40_000, "d")));
        sent.forget();
        assert_eq!(sent.recent.len(), 1, "what is not read again need not be remembered");
    }

    #[test]
    fn whoever_comes_again_is_not_sent_the_last_event_again() {
        let mut sent = Sent::up_to(Some(cursor(20_000, ID)));
        assert!(!sent.is_news(&cursor(20_000, ID)));
        assert!(sent.is_news(&cursor(19_999, ID)) && sent.is_news(&cursor(20_001, ID)));
    }
}
