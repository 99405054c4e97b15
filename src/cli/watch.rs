//! A logout followed to its end: a bar for people, lines where there is no terminal, one JSON document a line for programs.
//!
//! The stream says what settles; how many there are is asked of the receipt, since a logout may grow while it goes on. A stream that breaks off is taken
//! up where it stopped.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::output::{Form, Output, count, print, print_on, to_the_second};
use super::plain::{plain, plain_json};
use super::receipt::{Counts, standing, told, verdict, waited_for};
use super::server::{Server, route};
use super::{Desk, Error};
use crate::model::IssuerId;

/// How often a stream may break off without having said anything new.
const BREAKS_MAX: u32 = 10;
/// How long it waits before it takes a stream up again, and how long at most.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// How often the bar asks how it stands.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest event that is read, in octets.
const EVENT_BYTES_MAX: usize = 1 << 20;
/// How many events are remembered, since one that was told may come again after a break.
const REMEMBERED_MAX: usize = 10_000;

/// Follows a logout until it has settled; says whether everybody confirmed it.
pub(super) async fn watch(desk: &Desk, issuer: &IssuerId, id: &str) -> Result<(), Error> {
    let left_off = || Error::LeftOff { command: format!("logoutd logout watch {issuer} {}", plain(id)) };
    let receipt = tokio::select! {
        receipt = follow(desk, issuer, id) => match receipt {
            // Of what nobody followed to its end nobody knows how it ended.
            Err(Error::Unread) | Ok(None) => return Err(left_off()),
            receipt => receipt?.ok_or_else(left_off)?,
        },
        _ = tokio::signal::ctrl_c() => return Err(left_off()),
    };
    if desk.out.form == Form::Human {
        print(told(desk.out, &receipt).trim_end())?;
    }
    verdict(&receipt)
}

/// The receipt at the end; none when the stream broke off too often.
async fn follow(desk: &Desk, issuer: &IssuerId, id: &str) -> Result<Option<Value>, Error> {
    let receipt = route(&["issuers", issuer.as_str(), "logouts", id])?;
    let mut place = Place { path: format!("{receipt}/events"), told: BTreeSet::new(), breaks: 0 };
    let teller = Teller::of(desk.out, receipt);
    loop {
        let error = match stream(&desk.server, &mut place, &teller).await {
            Ok(Some(receipt)) => return Ok(Some(receipt)),
            Ok(None) => None,
            Err(error) if is_passing(&error) => Some(error),
            Err(error) => return Err(error),
        };
        place.breaks += 1;
        if place.breaks > BREAKS_MAX {
            return error.map_or(Ok(None), Err);
        }
        match &error {
            Some(Error::Refused(refusal)) => eprintln!("it cannot be followed now: {refusal}: trying again"),
            Some(_) | None => eprintln!("the stream broke off: taking it up again"),
        }
        tokio::time::sleep((PAUSE * 2_u32.saturating_pow(place.breaks - 1)).min(PAUSE_MAX)).await;
    }
}

/// Where a stream stands that may be taken up again.
struct Place {
    path: String,
    /// The ids of the events that were told; the latest is where to go on.
    told: BTreeSet<String>,
    /// How often it broke off since it last said something new.
    breaks: u32,
}

impl Place {
    /// Notes an event; false when it was told before.
    fn is_news(&mut self, id: &str) -> bool {
        let news = self.told.insert(id.to_owned());
        if news {
            self.breaks = 0;
        }
        if self.told.len() > REMEMBERED_MAX {
            self.told.pop_first();
        }
        news
    }
}

/// Reads one stream. The receipt where it ends, none where it breaks off.
async fn stream(server: &Server, place: &mut Place, teller: &Teller) -> Result<Option<Value>, Error> {
    let mut response = server.follow(&place.path, place.told.last().map(String::as_str)).await?;
    let mut events = Events::default();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            chunk = response.chunk() => {
                let Some(chunk) = chunk.map_err(|source| server.unreachable(source))? else { return Ok(None) };
                for Event { name, id, data } in events.feed(&chunk)? {
                    match name.as_str() {
                        "settled" if place.is_news(&id) => teller.settled(&data)?,
                        "end" => return teller.ended(&data).map(Some),
                        _ => {}
                    }
                }
            }
            _ = looks.tick(), if teller.bar.is_some() => teller.look(server).await,
        }
    }
}

/// Whether asking again may help.
fn is_passing(error: &Error) -> bool {
    let is_refused_for_now = |error: &Error| matches!(error, Error::Refused(refusal) if matches!(refusal.status, 429 | 502..=504));
    matches!(error, Error::Unreachable { .. }) || is_refused_for_now(error)
}

/// Tells of events as they come.
struct Teller {
    out: Output,
    /// The path of the receipt.
    receipt: String,
    bar: Option<ProgressBar>,
}

impl Teller {
    fn of(out: Output, receipt: String) -> Self {
        let bar = (out.form == Form::Human && std::io::stderr().is_terminal()).then(bar);
        Self { out, receipt, bar }
    }

    /// A delivery that was settled.
    fn settled(&self, data: &str) -> Result<(), Error> {
        let delivery: Value = serde_json::from_str(data).map_err(|_| Error::Misunderstood)?;
        match (self.out.form, &self.bar) {
            (Form::Json, _) => print_on(&plain_json(data)),
            (Form::Human, None) => print_on(&line(&delivery)),
            (Form::Human, Some(bar)) if delivery.get("state").and_then(Value::as_str) != Some("delivered") => {
                bar.println(line(&delivery));
                Ok(())
            }
            (Form::Human, Some(_)) => Ok(()),
        }
    }

    fn ended(&self, data: &str) -> Result<Value, Error> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.out.form == Form::Json {
            print(&plain_json(data))?;
        }
        serde_json::from_str(data).map_err(|_| Error::Misunderstood)
    }

    /// Moves the bar to where the logout stands; where that cannot be asked now it stays.
    async fn look(&self, server: &Server) {
        let (Some(bar), Ok(answer)) = (&self.bar, server.get(&self.receipt).await) else { return };
        let Counts { total, pending, adopted, .. } = Counts::of(&answer.value);
        // What it waits for of earlier logouts is not in the total.
        bar.set_length(total.saturating_add(adopted));
        bar.set_position(total.saturating_sub(pending));
        bar.set_message(format!("deliveries {}{}", standing(&answer.value), waited_for(&answer.value)));
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("{bar:30} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// A settled delivery in a line.
fn line(delivery: &Value) -> String {
    let text = |name: &str| delivery.get(name).and_then(Value::as_str).map(plain);
    let whom = text("client_id").unwrap_or_else(|| "the provider".to_owned());
    let sid = text("sid").map_or_else(String::new, |sid| format!(" ({sid})"));
    let why = text("reason").map_or_else(String::new, |why| format!(": {why}"));
    let attempts = count(delivery.get("attempts").and_then(Value::as_u64).unwrap_or(0), "attempt", "attempts");
    let at = text("settled_at").map_or_else(|| "-".to_owned(), |at| to_the_second(&at));
    format!("{at}  {whom}{sid} {}{why}, {attempts}", text("state").unwrap_or_else(|| "settled".to_owned()))
}

/// One event of a stream (WHATWG HTML 9.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Event {
    name: String,
    id: String,
    data: String,
}

/// What has come of a stream and is no whole event yet.
#[derive(Debug, Default)]
struct Events {
    octets: Vec<u8>,
    event: Event,
}

impl Events {
    /// The events that are whole with these octets.
    fn feed(&mut self, octets: &[u8]) -> Result<Vec<Event>, Error> {
        self.octets.extend_from_slice(octets);
        let mut whole = Vec::new();
        while let Some(end) = self.octets.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = self.octets.drain(..=end).collect();
            whole.extend(self.take(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n'])));
        }
        match self.octets.len() + self.event.data.len() > EVENT_BYTES_MAX {
            true => Err(Error::TooMuch { bytes_max: EVENT_BYTES_MAX }),
            false => Ok(whole),
        }
    }

    /// Takes one line; an empty one ends an event.
    fn take(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            return Some(std::mem::take(&mut self.event)).filter(|event| !event.data.is_empty());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "id" => value.clone_into(&mut self.event.id),
            "data" if self.event.data.is_empty() => value.clone_into(&mut self.event.data),
            "data" => self.event.data.extend(["\n", value]),
            // A comment, or what a later version says.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const STREAM: &str =
        ": heartbeat\n\nid: 1.a\r\nevent: settled\r\ndata: {\r\ndata: }\r\n\r\nevent:end\ndata:{\"é\":1}\n\nevent: settled\ndata: {";

    #[test]
    fn events_are_whole_at_their_empty_line() {
        let events = Events::default().feed(STREAM.as_bytes()).unwrap();
        let event = |name: &str, id: &str, data: &str| Event { name: name.to_owned(), id: id.to_owned(), data: data.to_owned() };
        assert_eq!(events, [event("settled", "1.a", "{\n}"), event("end", "", "{\"é\":1}")]);
    }

    proptest! {
        #[test]
        fn however_a_stream_is_cut_its_events_are_the_same(cuts in proptest::collection::vec(1_usize..9, 0..60)) {
            let (mut rest, mut events, mut found) = (STREAM.as_bytes(), Events::default(), Vec::new());
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                found.extend(events.feed(now).unwrap());
                rest = later;
            }
            found.extend(events.feed(rest).unwrap());
            prop_assert_eq!(found, Events::default().feed(STREAM.as_bytes()).unwrap());
        }
    }

    #[test]
    fn an_event_without_end_is_not_read() {
        let mut events = Events::default();
        let chunk = vec![b'x'; EVENT_BYTES_MAX / 2];
        assert!(events.feed(&chunk).is_ok() && events.feed(&chunk).is_ok());
        assert!(matches!(events.feed(b"x"), Err(Error::TooMuch { .. })));
    }

    #[test]
    fn what_comes_again_after_a_break_is_told_once_and_a_break_without_news_counts() {
        let mut place = Place { path: String::new(), told: BTreeSet::new(), breaks: 3 };
        assert!(place.is_news("1790000000002.b") && place.breaks == 0);
        place.breaks = 1;
        assert!(!place.is_news("1790000000002.b") && place.breaks == 1);
        assert!(place.is_news("1790000000001.a"), "another replica's commit became visible later");
        assert_eq!(place.told.last().map(String::as_str), Some("1790000000002.b"));
    }

    #[test]
    fn a_settled_delivery_is_a_line_without_anything_a_terminal_obeys() {
        let delivery = json!({"client_id": "wi\u{1b}[2Jki", "sid": "s-1", "state": "rejected", "reason": "refused", "attempts": 2,
            "settled_at": "2026-09-21T14:13:20.123Z"});
        assert_eq!(line(&delivery), "2026-09-21T14:13:20Z  wi[2Jki (s-1) rejected: refused, 2 attempts");
        assert!(line(&json!({"state": "delivered"})).contains("the provider delivered, 0 attempts"));
    }
}
