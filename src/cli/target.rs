//! What `kill` names: one of a dozen combinations of options, and nothing else.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::Error;
use super::plain::plain;
use super::server::content;
use super::words::client_id;
use crate::model::ClientId;

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Whom (exactly one of the combinations below)")]
pub(super) struct TargetArgs {
    /// One session, by the provider's `sid`; with --client, that application's part in it alone
    #[arg(long, allow_hyphen_values = true)]
    sid: Option<String>,
    /// One session that has no `sid`, by the provider's own name for it
    #[arg(long)]
    key: Option<String>,
    /// All sessions of a person, by the provider's `sub`; with --client, the person's parts there alone
    #[arg(long)]
    sub: Option<String>,
    /// With --sub: the session that goes on
    #[arg(long, value_name = "SID")]
    except_sid: Option<String>,
    /// Everybody's parts at an application; the sessions themselves go on
    #[arg(long, value_name = "CLIENT", value_parser = client_id)]
    client: Option<ClientId>,
    /// With --client: the part that has this `sid` at that application
    #[arg(long, value_name = "SID")]
    client_sid: Option<String>,
    /// With --client: the parts of whom that application knows by this `sub`
    #[arg(long, value_name = "SUB")]
    client_sub: Option<String>,
    /// The sessions that were begun on a device
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// The session of the refresh token in this file; - for standard input
    #[arg(long, value_name = "FILE")]
    refresh_token_file: Option<PathBuf>,
    /// Everybody
    #[arg(long)]
    everyone: bool,
    /// With --everyone or --client alone: spare this person; may be repeated
    #[arg(long, value_name = "SUB")]
    except_sub: Vec<String>,
    /// With --everyone: spare this application, and leave sessions alive; may be repeated
    #[arg(long, value_name = "CLIENT", value_parser = client_id)]
    except_client: Vec<ClientId>,
}

/// What is named.
#[derive(Debug, PartialEq)]
pub(super) struct Named {
    /// As the API takes it.
    pub(super) target: Value,
    pub(super) breadth: Breadth,
}

impl Named {
    /// As people write it; what is secret is not shown.
    pub(super) fn in_words(&self) -> String {
        let members = self.target.as_object().into_iter().flatten().filter(|(name, _)| !name.starts_with("except"));
        let words = members.map(|(name, value)| match (name.as_str(), value.as_str()) {
            ("refresh_token", _) => "this refresh token".to_owned(),
            (name, Some(value)) => format!("{}={}", name.trim_end_matches("_id"), plain(value)),
            (name, None) => name.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

/// How much can end by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breadth {
    /// One session, or parts in it.
    One,
    /// Sessions of one person or device.
    Some,
    /// Those of many people.
    Many,
}

/// The legal combinations of members, and how much can end by each.
const COMBINATIONS: [(&[&str], Breadth); 12] = [
    (&["sid"], Breadth::One),
    (&["key"], Breadth::One),
    (&["sub"], Breadth::Some),
    (&["sub", "except_sid"], Breadth::Some),
    (&["client_id"], Breadth::Many),
    (&["sub", "client_id"], Breadth::Some),
    (&["sid", "client_id"], Breadth::One),
    (&["client_id", "client_sid"], Breadth::One),
    (&["client_id", "client_sub"], Breadth::Some),
    (&["device_id"], Breadth::Some),
    (&["refresh_token"], Breadth::One),
    (&["everyone"], Breadth::Many),
];

const LEGAL: &str = "say exactly one of: --sid, --key, --sub, --sub --except-sid, --client, --sub --client, --sid --client, --client --client-sid, \
                     --client --client-sub, --device, --refresh-token-file, --everyone";

impl TargetArgs {
    /// The target, if the combination is legal.
    pub(super) fn named(&self) -> Result<Named, Error> {
        let members = self.members()?;
        let is_this = |names: &[&str]| names.len() == members.len() && names.iter().all(|name| members.contains_key(*name));
        let breadth =
            COMBINATIONS.iter().find(|(names, _)| is_this(names)).map(|(_, breadth)| *breadth).ok_or_else(|| Error::misuse(LEGAL))?;
        let except = self.except();
        if !except.is_empty() && breadth != Breadth::Many {
            return Err(Error::misuse("--except-sub and --except-client go with --everyone; the first also with --client alone"));
        }
        let mut target = members;
        if !except.is_empty() {
            target.insert("except".to_owned(), Value::Object(except));
        }
        Ok(Named { target: Value::Object(target), breadth })
    }

    /// The client whose parts end.
    pub(super) fn client(&self) -> Option<&ClientId> {
        self.client.as_ref()
    }

    /// The clients that are spared.
    pub(super) fn spared(&self) -> &[ClientId] {
        &self.except_client
    }

    fn members(&self) -> Result<Map<String, Value>, Error> {
        let text = |value: &Option<String>| value.as_ref().map(|value| json!(value));
        let token = self.refresh_token_file.as_ref().map(|file| content(file)).transpose()?;
        let members = [
            ("sid", text(&self.sid)),
            ("key", text(&self.key)),
            ("sub", text(&self.sub)),
            ("except_sid", text(&self.except_sid)),
            ("client_id", self.client.as_ref().map(|client| json!(client.as_str()))),
            ("client_sid", text(&self.client_sid)),
            ("client_sub", text(&self.client_sub)),
            ("device_id", text(&self.device)),
            ("refresh_token", token.map(|token| json!(token.trim()))),
            ("everyone", self.everyone.then_some(Value::Bool(true))),
        ];
        Ok(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }

    fn except(&self) -> Map<String, Value> {
        let clients: Vec<_> = self.except_client.iter().map(ClientId::as_str).collect();
        let spared = [("sub", json!(self.except_sub)), ("client_id", json!(clients))];
        spared.into_iter().filter(|(_, list)| *list != json!([])).map(|(name, list)| (name.to_owned(), list)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn client(name: &str) -> ClientId {
        ClientId::parse(name).unwrap()
    }

    #[test]
    fn each_combination_is_the_target_of_the_api() {
        let person = TargetArgs { sub: some("alice"), except_sid: some("s-1"), ..TargetArgs::default() }.named().unwrap();
        assert_eq!(person, Named { target: json!({"sub": "alice", "except_sid": "s-1"}), breadth: Breadth::Some });
        let all = TargetArgs {
            everyone: true,
            except_sub: vec!["root".to_owned()],
            except_client: vec![client("wiki")],
            ..TargetArgs::default()
        };
        let target = json!({"everyone": true, "except": {"sub": ["root"], "client_id": ["wiki"]}});
        assert_eq!(all.named().unwrap(), Named { target, breadth: Breadth::Many });
        let part = TargetArgs { sid: some("s"), client: Some(client("wiki")), ..TargetArgs::default() }.named().unwrap();
        assert_eq!(part, Named { target: json!({"sid": "s", "client_id": "wiki"}), breadth: Breadth::One });
    }

    #[test]
    fn what_is_named_is_told_without_what_is_secret() {
        let named = |target: Value| Named { target, breadth: Breadth::One }.in_words();
        assert_eq!(named(json!({"sub": "alice", "client_id": "wiki", "except": {"sub": ["bob"]}})), "client=wiki sub=alice");
        assert_eq!(named(json!({"refresh_token": "secret"})), "this refresh token");
        assert_eq!(named(json!({"everyone": true})), "everyone");
    }

    #[test]
    fn nothing_two_things_and_an_exception_from_one_person_are_misuse() {
        for wrong in [
            TargetArgs::default(),
            TargetArgs { sid: some("s"), sub: some("a"), ..TargetArgs::default() },
            TargetArgs { everyone: true, client: Some(client("wiki")), ..TargetArgs::default() },
            TargetArgs { except_sid: some("s"), ..TargetArgs::default() },
            TargetArgs { client_sid: some("s"), ..TargetArgs::default() },
            TargetArgs { sub: some("a"), except_sub: vec!["b".to_owned()], ..TargetArgs::default() },
        ] {
            assert!(matches!(wrong.named(), Err(Error::Misuse { .. })), "{wrong:?}");
        }
    }
}
