//! What a logout names, as it is written: one of a dozen combinations of members, and nothing else.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::token::TokenValue;
use crate::http::wire::text;
use crate::http::{Problem, Text};
use crate::model::access::Caller;
use crate::model::session::SessionName;
use crate::model::trigger::{Except, Target};
use crate::model::{ClientId, Subject};

/// What a logout names: `sid`, `key`, `sub`, `sub` and `except_sid`, `client_id`, `sub` and `client_id`, `sid` and `client_id`, `client_id` and
/// `client_sid`, `client_id` and `client_sub`, `device_id`, `refresh_token`, or `everyone`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(PartialEq))]
pub struct TargetBody {
    /// The provider's `sid`.
    sid: Option<text::Sid>,
    /// The provider's own name for a session without a `sid`.
    key: Option<text::ProviderKey>,
    /// The provider's `sub`.
    sub: Option<text::Subject>,
    /// The session that goes on.
    except_sid: Option<text::Sid>,
    client_id: Option<text::ClientId>,
    /// The `sid` that client saw.
    client_sid: Option<text::Sid>,
    /// The `sub` that client saw.
    client_sub: Option<text::Subject>,
    device_id: Option<text::Line>,
    /// A refresh token by value; only its digest is kept and shown.
    refresh_token: Option<TokenValue>,
    /// True: everybody.
    everyone: Option<bool>,
    /// Whom `everyone`, or a `client_id` alone, spares.
    #[serde(skip_serializing_if = "Option::is_none")]
    except: Option<ExceptBody>,
}

/// Whom a logout of many spares.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(PartialEq))]
pub struct ExceptBody {
    /// These people, by the provider's `sub`; at most 100.
    #[serde(default)]
    sub: Vec<text::Subject>,
    /// These clients; at most 100. Then everybody's participations at the other clients end, and the provider's sessions go on.
    #[serde(default)]
    client_id: Vec<text::ClientId>,
}

/// How many people, and how many clients, one logout may spare.
const EXCEPT_MAX: usize = 100;

/// The legal combinations, larger ones first, so that the first that is contained tells what was meant.
const COMBINATIONS: [&[&str]; 12] = [
    &["sub", "except_sid"],
    &["sub", "client_id"],
    &["sid", "client_id"],
    &["client_id", "client_sid"],
    &["client_id", "client_sub"],
    &["sid"],
    &["key"],
    &["sub"],
    &["client_id"],
    &["device_id"],
    &["refresh_token"],
    &["everyone"],
];

impl TargetBody {
    /// The target, if the combination is legal.
    #[expect(clippy::similar_names, reason = "these are the members' names")]
    pub fn target(self) -> Result<Target, Problem> {
        if let Some(problem) = self.fault() {
            return Err(problem);
        }
        Ok(match self {
            Self { sid: Some(Text(sid)), client_id: Some(Text(client_id)), .. } => Target::SessionAtClient { sid, client_id },
            Self { sid: Some(Text(sid)), .. } => Target::Session(SessionName::Sid(sid)),
            Self { key: Some(Text(key)), .. } => Target::Session(SessionName::Key(key)),
            Self { sub: Some(Text(sub)), except_sid: Some(Text(except_sid)), .. } => Target::SubjectExcept { sub, except_sid },
            Self { sub: Some(Text(sub)), client_id: Some(Text(client_id)), .. } => Target::SubjectAtClient { sub, client_id },
            Self { sub: Some(Text(sub)), .. } => Target::Subject(sub),
            Self { client_id: Some(Text(client_id)), client_sid: Some(Text(client_sid)), .. } => {
                Target::ClientSid { client_id, client_sid }
            }
            Self { client_id: Some(Text(client_id)), client_sub: Some(Text(client_sub)), .. } => {
                Target::ClientSub { client_id, client_sub }
            }
            Self { client_id: Some(Text(client_id)), .. } => Target::Client(client_id),
            Self { device_id: Some(Text(id)), .. } => Target::Device(id.into_string()),
            Self { refresh_token: Some(token), .. } => Target::RefreshToken { digest: token.digest(), names: token.names() },
            Self { everyone: Some(true), .. } => Target::Everyone,
            Self { everyone: Some(false) | None, .. } => return Err(Problem::invalid("/target/everyone", "must be true")),
        })
    }

    /// Whom it spares, if it is a target of many.
    pub fn except(&self) -> Result<Except, Problem> {
        let Some(except) = &self.except else { return Ok(Except::default()) };
        if self.mass() == Mass::Few {
            return Err(Problem::invalid("/target/except", "goes with everyone, or with a client_id alone"));
        }
        if self.everyone.is_none() && !except.client_id.is_empty() {
            return Err(Problem::invalid("/target/except/client_id", "goes with everyone"));
        }
        for (pointer, length) in [("/target/except/sub", except.sub.len()), ("/target/except/client_id", except.client_id.len())] {
            if length > EXCEPT_MAX {
                return Err(Problem::invalid(pointer, format!("must have at most {EXCEPT_MAX} members")));
            }
        }
        Ok(Except {
            sub: except.sub.iter().map(|Text(sub)| sub.clone()).collect(),
            client_id: except.client_id.iter().map(|Text(client_id)| client_id.clone()).collect(),
        })
    }

    /// Whether this caller needs more than the right to end one person's sessions.
    pub fn mass(&self) -> Mass {
        match (&self.client_id, self.names().len()) {
            (Some(_), 1) => Mass::Many,
            _ if self.everyone == Some(true) => Mass::Many,
            _ => Mass::Few,
        }
    }

    fn names(&self) -> Vec<&'static str> {
        let members = [
            ("sid", self.sid.is_some()),
            ("key", self.key.is_some()),
            ("sub", self.sub.is_some()),
            ("except_sid", self.except_sid.is_some()),
            ("client_id", self.client_id.is_some()),
            ("client_sid", self.client_sid.is_some()),
            ("client_sub", self.client_sub.is_some()),
            ("device_id", self.device_id.is_some()),
            ("refresh_token", self.refresh_token.is_some()),
            ("everyone", self.everyone.is_some()),
        ];
        members.into_iter().filter_map(|(name, present)| present.then_some(name)).collect()
    }

    /// The first member that fits no combination with the others.
    fn fault(&self) -> Option<Problem> {
        let names = self.names();
        let Some(first) = names.first() else {
            return Some(Problem::invalid("/target", "is empty: name what shall end, such as sid or sub"));
        };
        match COMBINATIONS.iter().find(|combination| combination.iter().all(|name| names.contains(name))) {
            None => Some(Problem::invalid(format!("/target/{first}"), "does not stand alone")),
            Some(combination) => {
                let surplus = names.iter().find(|name| !combination.contains(name))?;
                Some(Problem::invalid(format!("/target/{surplus}"), format!("does not go with {}", combination.join(" and "))))
            }
        }
    }
}

/// How many people a target may concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mass {
    /// One person, device, session, token or participation.
    Few,
    /// A client's users, or everybody.
    Many,
}

impl Mass {
    /// Whether this caller may end so many.
    pub fn permit(self, caller: &Caller) -> Result<(), Problem> {
        match self {
            Self::Few => Ok(()),
            Self::Many if caller.may_end_many() => Ok(()),
            Self::Many => Err(Problem::forbidden(
                "this concerns many people: it needs the role operator or admin, or a provider's token with may_mass_kill",
            )),
        }
    }
}

/// The target as receipts show it: of a refresh token only its digest.
pub fn shown(target: &Target, except: &Except) -> Value {
    let mut shown = shown_whole(target);
    if let (false, Some(members)) = (except.is_empty(), shown.as_object_mut()) {
        let sub: Vec<&str> = except.sub.iter().map(Subject::as_str).collect();
        let client_id: Vec<&str> = except.client_id.iter().map(ClientId::as_str).collect();
        members.insert("except".to_owned(), json!({ "sub": sub, "client_id": client_id }));
    }
    shown
}

fn shown_whole(target: &Target) -> Value {
    match target {
        Target::Everyone => json!({ "everyone": true }),
        Target::Session(SessionName::Sid(sid)) => json!({ "sid": sid.as_str() }),
        Target::Session(SessionName::Key(key)) => json!({ "key": key.as_str() }),
        Target::Session(SessionName::Subject(sub)) | Target::Subject(sub) => json!({ "sub": sub.as_str() }),
        Target::SubjectExcept { sub, except_sid } => json!({ "sub": sub.as_str(), "except_sid": except_sid.as_str() }),
        Target::Client(client_id) => json!({ "client_id": client_id.as_str() }),
        Target::SubjectAtClient { sub, client_id } => json!({ "sub": sub.as_str(), "client_id": client_id.as_str() }),
        Target::SessionAtClient { sid, client_id } => json!({ "sid": sid.as_str(), "client_id": client_id.as_str() }),
        Target::ClientSid { client_id, client_sid } => json!({ "client_id": client_id.as_str(), "client_sid": client_sid.as_str() }),
        Target::ClientSub { client_id, client_sub } => json!({ "client_id": client_id.as_str(), "client_sub": client_sub.as_str() }),
        Target::Device(device_id) => json!({ "device_id": device_id }),
        Target::RefreshToken { digest, .. } => json!({ "refresh_token_sha256": digest.to_string() }),
        // Posted by nobody: what found it writes down by which token.
        Target::Reuse(_) => json!({ "refresh_token": true }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::model::access::Role;

    use super::*;
    use crate::http::Code;
    use crate::http::json::parse;

    fn read(body: &str) -> Result<Target, Problem> {
        parse::<TargetBody>(body.as_bytes())?.target()
    }

    #[test]
    fn every_combination_of_the_contract_is_read_and_shown_as_it_was_written() {
        for body in [
            r#"{"sid":"s"}"#,
            r#"{"key":"k"}"#,
            r#"{"sub":"a"}"#,
            r#"{"sub":"a","except_sid":"s"}"#,
            r#"{"client_id":"c"}"#,
            r#"{"sub":"a","client_id":"c"}"#,
            r#"{"sid":"s","client_id":"c"}"#,
            r#"{"client_id":"c","client_sid":"s"}"#,
            r#"{"client_id":"c","client_sub":"a"}"#,
            r#"{"device_id":"d"}"#,
            r#"{"everyone":true}"#,
        ] {
            let target = read(body).expect(body);
            assert_eq!(shown(&target, &Except::default()), serde_json::from_str::<Value>(body).unwrap());
        }
    }

    #[test]
    fn a_refresh_token_is_shown_as_its_digest_alone() {
        let target = read(r#"{"refresh_token":"abc"}"#).unwrap();
        assert_eq!(shown(&target, &Except::default()), json!({"refresh_token_sha256": "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"}));
    }

    #[test]
    fn everyone_is_true_or_nothing() {
        assert_eq!(read(r#"{"everyone":true}"#).unwrap(), Target::Everyone);
        assert_eq!(read(r#"{"everyone":false}"#).unwrap_err().code(), Code::InvalidField);
    }

    #[test]
    fn who_is_spared_is_read_and_shown_and_goes_only_with_a_target_of_many() {
        let spared = |body: &str| parse::<TargetBody>(body.as_bytes()).unwrap().except();
        let except = spared(r#"{"everyone":true,"except":{"sub":["a"],"client_id":["c"]}}"#).unwrap();
        assert!(except.spares(Some(&Subject::parse("a").unwrap()), None) && except.spares(None, Some(&ClientId::parse("c").unwrap())));
        assert_eq!(shown(&Target::Everyone, &except), json!({"everyone": true, "except": {"sub": ["a"], "client_id": ["c"]}}));
        assert!(spared(r#"{"client_id":"c","except":{"sub":["a"]}}"#).is_ok());
        assert!(spared(r#"{"everyone":true,"except":{}}"#).unwrap().is_empty());
        let many = format!(r#"{{"everyone":true,"except":{{"sub":["a"{}]}}}}"#, r#","a""#.repeat(100));
        for (body, pointer) in [
            (r#"{"sub":"a","except":{"sub":["a"]}}"#, "/target/except"),
            (r#"{"sub":"a","client_id":"c","except":{}}"#, "/target/except"),
            (r#"{"client_id":"c","except":{"client_id":["d"]}}"#, "/target/except/client_id"),
            (many.as_str(), "/target/except/sub"),
        ] {
            assert_eq!(spared(body).unwrap_err().errors()[0].pointer.as_deref(), Some(pointer), "{body}");
        }
    }

    #[test]
    fn another_combination_is_refused_and_the_surplus_member_named() {
        for (body, pointer) in [
            ("{}", "/target"),
            (r#"{"sid":"s","sub":"a"}"#, "/target/sub"),
            (r#"{"sid":"s","key":"k"}"#, "/target/key"),
            (r#"{"except_sid":"s"}"#, "/target/except_sid"),
            (r#"{"client_sid":"s"}"#, "/target/client_sid"),
            (r#"{"sub":"a","client_id":"c","except_sid":"s"}"#, "/target/client_id"),
            (r#"{"client_id":"c","client_sid":"s","client_sub":"a"}"#, "/target/client_sub"),
            (r#"{"device_id":"d","refresh_token":"t"}"#, "/target/refresh_token"),
            (r#"{"sub":"a","everyone":true}"#, "/target/everyone"),
        ] {
            let problem = read(body).unwrap_err();
            assert_eq!(problem.errors()[0].pointer.as_deref(), Some(pointer), "{body}");
        }
    }

    #[test]
    fn a_provider_ends_a_clients_users_only_with_leave() {
        let caller = |role, may_mass_kill| Caller {
            identity: "t".to_owned(),
            role,
            issuer: None,
            client_id: None,
            may_mass_kill,
            remote: None,
            behalf: crate::model::access::Behalf::default(),
            token: crate::model::access::OwnToken::NONE,
        };
        let mass = |body: &str| parse::<TargetBody>(body.as_bytes()).unwrap().mass();
        for many in [r#"{"client_id":"c"}"#, r#"{"everyone":true}"#] {
            assert_eq!(mass(many).permit(&caller(Role::Provider, false)).unwrap_err().code(), Code::Forbidden);
            assert!(mass(many).permit(&caller(Role::Provider, true)).is_ok());
            assert!(mass(many).permit(&caller(Role::Operator, false)).is_ok());
        }
        for few in [r#"{"sub":"a"}"#, r#"{"sub":"a","client_id":"c"}"#, r#"{"client_id":"c","client_sid":"s"}"#] {
            assert!(mass(few).permit(&caller(Role::Provider, false)).is_ok());
        }
    }

    proptest! {
        #[test]
        fn any_set_of_members_is_one_legal_target_or_names_a_member_of_itself(bits in 0_u32..1024) {
            let all = ["sid", "key", "sub", "except_sid", "client_id", "client_sid", "client_sub", "device_id", "refresh_token", "everyone"];
            let chosen: Vec<_> = all.iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0).map(|(_, name)| *name).collect();
            let body: serde_json::Map<_, _> = chosen
                .iter()
                .map(|name| ((*name).to_owned(), if *name == "everyone" { json!(true) } else { json!("x") }))
                .collect();
            let legal = COMBINATIONS.iter().any(|combination| combination.len() == chosen.len() && combination.iter().all(|name| chosen.contains(name)));
            match read(&Value::Object(body).to_string()) {
                Ok(target) => {
                    prop_assert!(legal);
                    prop_assert_eq!(shown(&target, &Except::default()).as_object().map(serde_json::Map::len), Some(chosen.len()));
                }
                Err(problem) => {
                    prop_assert!(!legal);
                    let pointer = problem.errors()[0].pointer.clone().unwrap();
                    let named = chosen.iter().any(|name| pointer == format!("/target/{name}"));
                    prop_assert!(named || chosen.is_empty(), "{}", pointer);
                }
            }
        }
    }
}
