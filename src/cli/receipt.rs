//! A receipt as people read it: what ended, who was told, and who may still be in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Error;
use super::output::{Column, Output, count, facts, text, time};
use super::plain::plain;

/// How many are named of those still waited for.
const WAITED_SHOWN: usize = 3;

const FACTS: [Column; 13] = [
    text("logout", "/id"),
    text("issuer", "/issuer"),
    text("target", "/target"),
    text("reason", "/reason"),
    text("detail", "/reason_detail"),
    text("actor", "/actor"),
    text("correlation id", "/correlation_id"),
    text("note", "/note"),
    text("state", "/state"),
    time("occurred", "/occurred_at"),
    time("created", "/created_at"),
    time("undone", "/undone_at"),
    time("settled", "/settled_at"),
];

const CLIENTS: [Column; 7] = [
    text("client", "/client_id"),
    text("sid", "/sid"),
    text("state", "/state"),
    text("why", "/reason"),
    text("attempts", "/attempts"),
    time("delivered", "/delivered_at"),
    // Where nobody can say, it may be long.
    time("tokens may work until", "/residual_until").or("unknown"),
];

const BY_CLIENT: [Column; 3] = [text("client", "/client_id"), text("would be told", "/pending"), text("cannot be told", "/unreachable")];

/// All of a receipt.
pub(super) fn told(out: Output, receipt: &Value) -> String {
    let clients = clients(receipt);
    let mut told = format!("{}{}", facts(receipt, &FACTS), effects(receipt));
    if !clients.is_empty() {
        told.push('\n');
        told.push_str(&out.table(clients, &CLIENTS));
        told.push_str(&more(receipt, "logoutd delivery list ISSUER --logout ID"));
    }
    told
}

/// What a rehearsed logout would do.
pub(super) fn blast_radius(out: Output, receipt: &Value) -> String {
    let mut told = format!("This would {}.\n", reach(receipt));
    told.push_str(&format!("{}\n", provider(receipt, Tense::Would)));
    let by_client = by_client(receipt);
    match (by_client.is_empty(), Counts::of(receipt).total) {
        (false, _) => {
            told.push_str(&format!("\n{}", out.table(&by_client, &BY_CLIENT)));
            if receipt.get("would_tell").is_none() {
                told.push_str(&more(receipt, "only the first are named in advance"));
            }
        }
        (true, 0) => told.push_str("No application would be told: nobody takes part in what would end.\n"),
        (true, _) => {}
    }
    told
}

/// Whether it met nobody. What is not expanded yet may still meet somebody.
pub(super) fn does_nothing(receipt: &Value) -> bool {
    let is_none = |name: &str| receipt.get(name).and_then(Value::as_u64) == Some(0);
    let Counts { total, adopted, .. } = Counts::of(receipt);
    let met_nobody = ["sessions_ended", "participations_ended", "refresh_tokens_revoked"].into_iter().all(is_none);
    let told_provider = receipt.get("provider").is_some_and(Value::is_string);
    met_nobody && total == 0 && adopted == 0 && !told_provider && !is_expanding(receipt)
}

/// Whether it is still ending sessions, so that no number in it is the last.
fn is_expanding(receipt: &Value) -> bool {
    receipt.get("state").and_then(Value::as_str) == Some("expanding")
}

/// What it does, in a clause.
pub(super) fn reach(receipt: &Value) -> String {
    let number = |name: &str| receipt.get(name).and_then(Value::as_u64).unwrap_or(0);
    format!(
        "end {} and {}, revoke {} and make {}",
        count(number("sessions_ended"), "session", "sessions"),
        count(number("participations_ended"), "further participation", "further participations"),
        count(number("refresh_tokens_revoked"), "refresh token", "refresh tokens"),
        count(Counts::of(receipt).total, "delivery", "deliveries"),
    )
}

/// What a logout ended and whom it told, in lines.
fn effects(receipt: &Value) -> String {
    let number = |name: &str| receipt.get(name).and_then(Value::as_u64).unwrap_or(0);
    let ended = format!(
        "{}, {}, {} revoked",
        count(number("sessions_ended"), "session", "sessions"),
        count(number("participations_ended"), "further participation", "further participations"),
        count(number("refresh_tokens_revoked"), "refresh token", "refresh tokens"),
    );
    let so_far = if is_expanding(receipt) { ", so far" } else { "" };
    let revocations = receipt.get("revocations").map_or_else(String::new, |counts| format!("\nat provider     {}", in_words(counts)));
    format!(
        "ended           {ended}{so_far}\ndeliveries      {}{so_far}\nprovider        {}{revocations}\n",
        standing(receipt),
        provider(receipt, Tense::Was)
    )
}

fn in_words(counts: &Value) -> String {
    let number = |name: &str| counts.get(name).and_then(Value::as_u64).unwrap_or(0);
    format!("{} revoked, {} pending, {} given up", count(number("delivered"), "token", "tokens"), number("pending"), number("gave_up"))
}

/// Whether a receipt tells of what was done, or of what would be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tense {
    Was,
    Would,
}

/// Whether the provider knows, and what it means when it does not.
fn provider(receipt: &Value, tense: Tense) -> String {
    const RETURN: &str = "with its cookie one can sign in again without a password";
    match (receipt.get("provider").and_then(Value::as_str), tense) {
        (None, _) => unasked(receipt, tense),
        (Some("told"), Tense::Was) => "The provider was told.".to_owned(),
        (Some("pending"), Tense::Was) => "The provider is being told.".to_owned(),
        (Some("told" | "pending"), Tense::Would) => "The provider would be told.".to_owned(),
        (Some("gave_up"), _) => format!("The provider could not be told: {RETURN}."),
        (Some(_), Tense::Was) => format!("The provider was not told: {RETURN}."),
        (Some(_), Tense::Would) => format!("The provider would not be told: {RETURN}."),
    }
}

/// Why nobody asked the provider anything. Where no session is known here it may well have one.
fn unasked(receipt: &Value, tense: Tense) -> String {
    let some = |name: &str| receipt.get(name).and_then(Value::as_u64).unwrap_or(0) > 0;
    let of_a_client = receipt.pointer("/target/client_id").is_some();
    let its_own = receipt.get("reason").and_then(Value::as_str) == Some("upstream");
    match tense {
        Tense::Was if is_expanding(receipt) => "Not known yet: sessions are still being ended.".to_owned(),
        _ if some("sessions_ended") || its_own => "The provider has nothing to be told: it knows.".to_owned(),
        _ if some("participations_ended") || of_a_client => "The provider has nothing to be told: its own sessions go on.".to_owned(),
        Tense::Was => "No live session is known here, so the provider was not asked to end any; it may have some.".to_owned(),
        Tense::Would => "No live session is known here, so the provider would not be asked to end any; it may have some.".to_owned(),
    }
}

/// The deliveries of a logout, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) total: u64,
    pub(super) pending: u64,
    pub(super) delivered: u64,
    pub(super) rejected: u64,
    pub(super) expired: u64,
    pub(super) superseded: u64,
    pub(super) cancelled: u64,
    pub(super) unreachable: u64,
    pub(super) adopted: u64,
}

impl Counts {
    pub(super) fn of(receipt: &Value) -> Self {
        let number = |name: &str| receipt.pointer(&format!("/deliveries/{name}")).and_then(Value::as_u64).unwrap_or(0);
        Self {
            total: number("total"),
            pending: number("pending"),
            delivered: number("delivered"),
            rejected: number("rejected"),
            expired: number("expired"),
            superseded: number("superseded"),
            cancelled: number("cancelled"),
            unreachable: number("unreachable"),
            adopted: number("adopted"),
        }
    }
}

/// Who confirmed, who is pending and who was given up; what is none of it only where there is any.
pub(super) fn standing(receipt: &Value) -> String {
    let Counts { total, pending, delivered, rejected, expired, superseded, cancelled, unreachable, adopted } = Counts::of(receipt);
    let always = [(delivered, "confirmed"), (pending, "pending"), (rejected.saturating_add(expired), "given up")];
    let others = [
        (unreachable, "cannot be told"),
        (superseded, "superseded by a newer login"),
        (cancelled, "cancelled"),
        (adopted, "pending of earlier logouts"),
    ];
    let counted = always.into_iter().chain(others.into_iter().filter(|(number, _)| *number > 0));
    format!("{total}: {}", counted.map(|(number, what)| format!("{number} {what}")).collect::<Vec<_>>().join(", "))
}

/// Who is still waited for, the first of them by name; nothing where nobody is.
pub(super) fn waited_for(receipt: &Value) -> String {
    let is_pending = |line: &&Value| line.get("state").and_then(Value::as_str) == Some("pending");
    let names = clients(receipt).iter().filter(is_pending).filter_map(|line| line.get("client_id").and_then(Value::as_str));
    let names: Vec<String> = names.collect::<BTreeSet<_>>().into_iter().map(plain).collect();
    match names.as_slice() {
        [] => String::new(),
        few if few.len() <= WAITED_SHOWN => format!(" · waiting for {}", few.join(", ")),
        many => format!(" · waiting for {} and others", many.iter().take(WAITED_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ")),
    }
}

/// Whether everybody confirmed a settled logout, or took it back by a newer login.
pub(super) fn verdict(receipt: &Value) -> Result<(), Error> {
    let Counts { rejected, expired, cancelled, unreachable, .. } = Counts::of(receipt);
    let gave_up = u64::from(receipt.get("provider").and_then(Value::as_str) == Some("gave_up"));
    let who = [
        (rejected, "refused"),
        (expired, "did not answer in time"),
        (unreachable, "cannot be told"),
        (cancelled, "cancelled"),
        (gave_up, "the provider could not be told"),
    ];
    let who: Vec<_> = who.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")).collect();
    if who.is_empty() { Ok(()) } else { Err(Error::Unconfirmed { who: who.join(", ") }) }
}

fn clients(receipt: &Value) -> &[Value] {
    receipt.get("clients").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whom a rehearsed logout would tell: as the server counted it, else as the lines of its receipt say.
fn by_client(receipt: &Value) -> Vec<Value> {
    if let Some(counted) = receipt.get("would_tell").and_then(Value::as_array) {
        return counted.clone();
    }
    let mut counted: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    for line in clients(receipt) {
        let text = |name: &str| line.get(name).and_then(Value::as_str);
        let [told, unreachable] = counted.entry(text("client_id").unwrap_or("-")).or_default();
        *(if text("state") == Some("unreachable") { unreachable } else { told }) += 1;
    }
    let shown = counted
        .into_iter()
        .map(|(client_id, [told, unreachable])| json!({ "client_id": client_id, "pending": told, "unreachable": unreachable }));
    shown.collect()
}

/// That a receipt names the first of its clients only.
fn more(receipt: &Value, hint: &str) -> String {
    let shown = u64::try_from(clients(receipt).len()).unwrap_or(u64::MAX);
    match Counts::of(receipt).total.saturating_sub(shown) {
        0 => String::new(),
        left => format!("\nand {}: {hint}", count(left, "more delivery", "more deliveries")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_none_of_the_three_is_told_where_there_is_any() {
        let receipt = json!({"deliveries": {"total": 9, "delivered": 4, "pending": 1, "rejected": 1, "expired": 1, "unreachable": 2}});
        assert_eq!(standing(&receipt), "9: 4 confirmed, 1 pending, 2 given up, 2 cannot be told");
        assert_eq!(standing(&json!({})), "0: 0 confirmed, 0 pending, 0 given up");
    }

    #[test]
    fn a_provider_that_nobody_asked_is_never_said_to_have_no_session() {
        let may_have_some = |receipt: Value| provider(&receipt, Tense::Was).ends_with("it may have some.");
        assert!(may_have_some(json!({"target": {"sid": "s"}, "provider": null, "sessions_ended": 0, "state": "settled"})));
        assert!(may_have_some(json!({"target": {"everyone": true}, "sessions_ended": 0, "state": "settled"})));
        for known in [
            json!({"target": {"sub": "a"}, "sessions_ended": 2, "state": "settled"}),
            json!({"target": {"client_id": "wiki"}, "sessions_ended": 0, "state": "settled"}),
            json!({"target": {"relayed": true}, "reason": "upstream", "sessions_ended": 0, "state": "settled"}),
        ] {
            assert!(provider(&known, Tense::Was).starts_with("The provider has nothing to be told"), "{known}");
        }
        let expanding = json!({"target": {"everyone": true}, "sessions_ended": 0, "state": "expanding"});
        assert!(provider(&expanding, Tense::Was).starts_with("Not known yet"));
        assert!(effects(&expanding).lines().filter(|line| line.ends_with(", so far")).count() == 2);
        assert!(provider(&expanding, Tense::Would).contains("would not be asked"), "a rehearsal has counted to the end");
    }

    #[test]
    fn who_is_waited_for_is_named_once_and_the_first_of_many() {
        let line = |client_id: &str, state: &str| json!({"client_id": client_id, "state": state});
        let pending = |names: &[&str]| waited_for(&json!({"clients": names.iter().map(|name| line(name, "pending")).collect::<Vec<_>>()}));
        assert_eq!(waited_for(&json!({"clients": [line("wiki", "delivered"), line("mail", "rejected")]})), "");
        assert_eq!(pending(&["wiki", "ma\u{1b}il", "wiki"]), " · waiting for mail, wiki");
        assert_eq!(pending(&["d", "c", "b", "a"]), " · waiting for a, b, c and others");
    }

    #[test]
    fn a_logout_is_good_when_everybody_confirmed_or_logged_in_again() {
        let receipt = |state: &str| json!({"provider": "told", "deliveries": {"total": 2, "delivered": 1, state: 1}});
        for good in ["delivered", "superseded"] {
            assert!(verdict(&receipt(good)).is_ok(), "{good}");
        }
        for bad in ["rejected", "expired", "unreachable", "cancelled"] {
            assert!(matches!(verdict(&receipt(bad)), Err(Error::Unconfirmed { .. })), "{bad}");
        }
        assert!(verdict(&json!({"provider": "gave_up"})).is_err() && verdict(&json!({"provider": "not_told"})).is_ok());
    }

    #[test]
    fn a_blast_radius_counts_deliveries_by_client() {
        let line = |client_id: &str, state: &str| json!({"client_id": client_id, "state": state});
        let receipt = json!({"clients": [line("wiki", "pending"), line("mail", "unreachable"), line("wiki", "pending")]});
        let wiki = json!({"client_id": "wiki", "pending": 2, "unreachable": 0});
        assert_eq!(by_client(&receipt), [json!({"client_id": "mail", "pending": 0, "unreachable": 1}), wiki.clone()]);
        assert_eq!(by_client(&json!({"would_tell": [wiki.clone()], "clients": []})), [wiki]);
    }
}
