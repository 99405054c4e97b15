//! Bounds and answers of calls that carry many items.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use utoipa::ToSchema;

use crate::http::wire::text;
use crate::http::{Code, Problem, ProblemDocument, Text};
use crate::model::Timestamp;
use crate::model::report::{BULK_ITEMS_MAX, CALL_PARTS_MAX, Report, ReportRefused, Reported};
use crate::model::rotation::{FamilyStanding, Rotated};

// Items without parts inside need no bound but that on items.
const _: () = assert!(BULK_ITEMS_MAX <= CALL_PARTS_MAX);

/// The items of a bulk call. What is beyond the bound is counted and never built.
#[derive(Clone, Debug)]
pub struct Bulk<T, const MAX: usize = BULK_ITEMS_MAX> {
    items: Vec<T>,
    total: usize,
}

impl<T, const MAX: usize> Bulk<T, MAX> {
    /// The items, if there are not too many of them.
    pub fn bounded(self) -> Result<Vec<T>, Problem> {
        if self.total > MAX {
            let detail = format!("{} items are more than {MAX}; nothing was done", self.total);
            return Err(Problem::new(Code::TooManyItems, detail));
        }
        Ok(self.items)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bulk<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = Bulk<T, MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Bulk<T, MAX>, A::Error> {
                let mut items = Vec::new();
                while items.len() < MAX {
                    match sequence.next_element()? {
                        Some(item) => items.push(item),
                        None => return Ok(Bulk { total: items.len(), items }),
                    }
                }
                let mut total = items.len();
                while sequence.next_element::<IgnoredAny>()?.is_some() {
                    total += 1;
                }
                Ok(Bulk { items, total })
            }
        }
        deserializer.deserialize_seq(Items::<T, MAX>(PhantomData))
    }
}

/// The reports of one call, if they do not tell of too much: they are one transaction, and nothing else is written while it lasts.
pub fn bounded_parts(reports: Vec<Report>) -> Result<Vec<Report>, Problem> {
    let parts: usize = reports.iter().map(Report::parts).sum();
    if parts > CALL_PARTS_MAX {
        let detail = format!("{parts} participants, aliases and tokens in one call are more than {CALL_PARTS_MAX}; nothing was done");
        return Err(Problem::new(Code::TooManyItems, detail));
    }
    Ok(reports)
}

/// What became of each item, in the order of the call.
#[derive(Clone, Debug, serde::Serialize, ToSchema)]
pub struct Results {
    results: Vec<ItemResult>,
}

/// What became of one item.
#[derive(Clone, Debug, serde::Serialize, ToSchema)]
#[serde(untagged)]
pub enum ItemResult {
    /// It was taken.
    Done(ItemDone),
    /// It was refused; its neighbours stand.
    Refused(ProblemDocument),
}

/// An item that was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, ToSchema)]
pub struct ItemDone {
    /// 201 when it made something, 200 otherwise.
    status: u16,
    /// Of a session: `live` or `ended`.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// Of a session: the logout that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_by: Option<String>,
    /// Of a leave: how many participations ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    participations_left: Option<u64>,
    /// Of a token: whether it counts as live.
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<bool>,
    /// Of a token that was said to live longer than it may: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    capped: Option<bool>,
    /// When such a token expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<text::Timestamp>,
    /// Of a rotation: the `sid` of the token's session.
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<text::Sid>,
    /// Of a rotation: how often the family was rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    /// Of a rotation: whether it was told of before.
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed: Option<bool>,
}

impl Results {
    /// The answer to a bulk call.
    pub fn of(outcomes: Vec<Result<Reported, ReportRefused>>) -> Self {
        Self { results: outcomes.into_iter().map(item).collect() }
    }
}

fn item(outcome: Result<Reported, ReportRefused>) -> ItemResult {
    let made = |new| if new { 201 } else { 200 };
    let done = match outcome {
        Err(refused) => return ItemResult::Refused(Problem::from(refused).document()),
        // Who takes part is told by the single call alone: a thousand sessions of a thousand participants would be no answer.
        Ok(Reported::Session(standing)) => ItemDone {
            status: made(standing.created),
            state: Some(standing.state.as_str()),
            ended_by: standing.ended_by.map(|event| event.to_string()),
            ..ItemDone::default()
        },
        Ok(Reported::Touched) => ItemDone { status: 200, ..ItemDone::default() },
        Ok(Reported::Left(count)) => ItemDone { status: 200, participations_left: Some(count), ..ItemDone::default() },
        Ok(Reported::TokenRegistered { new, active, capped }) => {
            ItemDone { status: made(new), active: Some(active), ..ItemDone::default() }.capped_at(capped)
        }
        Ok(Reported::Rotated(rotated)) => rotation(rotated),
    };
    ItemResult::Done(done)
}

impl ItemDone {
    fn capped_at(self, capped: Option<Timestamp>) -> Self {
        Self { capped: capped.map(|_| true), expires_at: capped.map(Text), ..self }
    }
}

fn rotation(rotated: Rotated) -> ItemDone {
    let (status, replayed, standing) = match rotated {
        Rotated::Rotated(standing) => (201, false, standing),
        Rotated::Repeated(standing) | Rotated::Replayed { standing, .. } => (200, true, standing),
        Rotated::NotDue(standing) => (200, false, standing),
    };
    let FamilyStanding { sid, generation, capped } = standing;
    let done = ItemDone { status, sid: sid.map(Text), generation: Some(generation), replayed: Some(replayed), ..ItemDone::default() };
    done.capped_at(capped)
}

/// The outcome of a call that reported one thing.
pub fn only(outcomes: Vec<Result<Reported, ReportRefused>>) -> Result<Reported, Problem> {
    match outcomes.into_iter().next() {
        Some(outcome) => Ok(outcome?),
        None => Err(Problem::internal(Unanswered)),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a report was answered with no outcome")]
struct Unanswered;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::report::SessionStanding;
    use crate::model::session::Life;

    #[test]
    fn a_thousand_items_are_taken_and_one_more_is_too_many() {
        let bulk = |count: usize| serde_json::from_value::<Bulk<u32>>(serde_json::json!(vec![1; count])).unwrap().bounded();
        assert_eq!(bulk(0).unwrap().len(), 0);
        assert_eq!(bulk(1_000).unwrap().len(), 1_000);
        assert_eq!(bulk(1_001).unwrap_err().code(), Code::TooManyItems);
        assert_eq!(bulk(10_000).unwrap_err().code(), Code::TooManyItems);
    }

    #[test]
    fn each_item_is_answered_with_a_status_of_its_own() {
        let standing = SessionStanding { created: true, state: Life::Live, ended_by: None, participants: Vec::new() };
        let outcomes = vec![
            Ok(Reported::Session(standing)),
            Ok(Reported::Touched),
            Ok(Reported::Left(2)),
            Ok(Reported::TokenRegistered { new: false, active: true, capped: None }),
            Err(ReportRefused::UnknownSession),
            Err(ReportRefused::OtherSubject),
            Err(ReportRefused::TooManyParticipants),
        ];
        let written = serde_json::to_value(Results::of(outcomes)).unwrap();
        let results = written["results"].as_array().unwrap();
        let statuses: Vec<_> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
        assert_eq!(statuses, [201, 200, 200, 200, 404, 409, 422]);
        assert_eq!(results[0], serde_json::json!({"status": 201, "state": "live"}));
        assert_eq!(results[4]["type"], "urn:logoutd:problem:unknown-session");
        assert!(results.iter().all(|result| result["type"].is_string() == (result["status"].as_u64() >= Some(400))));
    }
}
