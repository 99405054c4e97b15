//! What a person is called, and where a text is one of these names: the same text in another place, or before it was theirs, is somebody else's.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::Timestamp;

/// One name, by whom it is used and for what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// The person, at the provider.
    Sub(String),
    /// A session, at the provider.
    Sid(String),
    /// A session, where the provider has no `sid`.
    Key(String),
    /// A device.
    Device(String),
    /// The person, at a client.
    ClientSub(String, String),
    /// A session, at a client.
    ClientSid(String, String),
}

/// All names of one person, each with the instant since which it is known to be theirs; none where it always was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(BTreeMap<Name, Option<Timestamp>>);

/// When something was written that may hold names.
#[derive(Clone, Copy, Debug)]
pub enum Written {
    /// It had to do with the person, whenever it was.
    AboutThem,
    /// Then.
    At(Timestamp),
}

impl Names {
    /// Adds one; of several instants the first counts.
    pub fn add(&mut self, name: Name, since: Option<Timestamp>) {
        self.0.entry(name).and_modify(|known| *known = (*known).min(since)).or_insert(since);
    }

    /// Takes one out, since it is another's as well.
    pub fn share(&mut self, name: &Name) {
        self.0.remove(name);
    }

    /// They, and since when.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, Option<Timestamp>)> {
        self.0.iter().map(|(name, since)| (name, *since))
    }

    /// When the first of them became theirs that was not always.
    pub fn since(&self) -> Option<Timestamp> {
        self.0.values().copied().flatten().min()
    }

    /// Whether it is one of theirs.
    pub fn has(&self, name: &Name, written: Written) -> bool {
        match (self.0.get(name), written) {
            (Some(Some(since)), Written::At(at)) => *since <= at,
            (Some(_), _) => true,
            (None, _) => false,
        }
    }

    /// Where their names stand in a value, as JSON pointers (RFC 6901).
    pub fn places(&self, value: &Value, written: Written) -> Vec<String> {
        let mut found = Vec::new();
        self.look("", value, written, &mut found);
        found
    }

    fn look(&self, place: &str, value: &Value, written: Written, found: &mut Vec<String>) {
        let Value::Object(members) = value else { return };
        let client = members.get("client_id").and_then(Value::as_str);
        for (member, value) in members {
            let place = format!("{place}/{}", member.replace('~', "~0").replace('/', "~1"));
            let is_name = |text: &str| meanings(member, client, text).into_iter().flatten().any(|name| self.has(&name, written));
            match value {
                Value::String(text) if is_name(text) => found.push(place),
                Value::Array(items) => {
                    let named = items.iter().enumerate().filter(|(_, item)| item.as_str().is_some_and(is_name));
                    found.extend(named.map(|(index, _)| format!("{place}/{index}")));
                }
                Value::Object(_) => self.look(&place, value, written, found),
                Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
            }
        }
    }
}

/// What a text may be that stands in a member, beside a client or not. A provider's logout token for a client has that client's names.
fn meanings(member: &str, client: Option<&str>, text: &str) -> [Option<Name>; 2] {
    let at_client = |name: fn(String, String) -> Name| client.map(|client| name(client.to_owned(), text.to_owned()));
    let text = || text.to_owned();
    match member {
        "sub" => [Some(Name::Sub(text())), at_client(Name::ClientSub)],
        "sid" => [Some(Name::Sid(text())), at_client(Name::ClientSid)],
        "except_sid" => [Some(Name::Sid(text())), None],
        "key" => [Some(Name::Key(text())), None],
        "device_id" => [Some(Name::Device(text())), None],
        "client_sub" => [at_client(Name::ClientSub), None],
        "client_sid" => [at_client(Name::ClientSid), None],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_is_a_name_in_its_place_and_since_it_was_one() {
        let at = Timestamp::from_seconds;
        let mut names = Names::default();
        names.add(Name::Sub("x".to_owned()), None);
        names.add(Name::ClientSid("wiki".to_owned(), "y".to_owned()), Some(at(5)));
        let places = |value: Value, second| names.places(&value, Written::At(at(second)));
        assert_eq!(places(json!({"target": {"sub": "x"}, "gap": "x", "note": "x", "sid": "x"}), 0), ["/target/sub"]);
        assert_eq!(places(json!({"everyone": true, "except": {"sub": ["z", "x"], "client_id": ["x"]}}), 0), ["/except/sub/1"]);
        assert_eq!(places(json!({"client_id": "wiki", "client_sid": "y"}), 5), ["/client_sid"]);
        assert_eq!(places(json!({"client_id": "wiki", "sid": "y"}), 5), ["/sid"]);
        for another in
            [json!({"client_id": "wiki", "client_sid": "y"}), json!({"client_id": "shop", "client_sid": "y"}), json!({"sid": "y"})]
        {
            assert!(places(another, 4).is_empty());
        }
        assert_eq!(names.places(&json!({"client_id": "wiki", "client_sid": "y"}), Written::AboutThem), ["/client_sid"]);
    }
}
