//! Whether a token is good after whatever happened: random histories of logins, refreshes, reuse, logouts, compromises, cut-offs, denials, suspensions,
//! revocations, gaps and time, held against a plain model of a few lines each.
//!
//! The model knows nothing of tables, locks, epochs or scopes. Steps are seconds apart, since what a tie means is tested elsewhere.
//! `LOGOUTD_HISTORIES` says how many histories; `.ci/full histories` asks for many.

use std::time::Duration;

use logoutd::model::Timestamp;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::api::{Api, send};
use crate::harness::database::on_both_engines;
use crate::harness::server::Stage;

const SUBJECTS: usize = 2;
/// Each with a scope of reuse of its own.
const CLIENTS: [(&str, &str); 3] = [("cautious", "grant"), ("usual", "session"), ("strict", "subject")];
const HISTORIES_DEFAULT: u32 = 12;
const STEPS: usize = 24;
/// Nobody is asked about within this of an end by time.
const MARGIN: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Plain,
    Security,
    Compromise,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    Session(usize),
    Subject(usize),
    AllBut(usize),
    Client(usize),
    SubjectAtClient(usize, usize),
    Everyone,
}

/// What happens; numbers wrap around what there is.
#[derive(Clone, Copy, Debug)]
enum Step {
    Login {
        sub: usize,
        life_s: Option<u64>,
    },
    Issue {
        session: usize,
        client: usize,
        offline: bool,
        life_s: Option<u64>,
    },
    Access {
        family: usize,
    },
    Refresh {
        family: usize,
    },
    Reuse {
        family: usize,
        back: usize,
    },
    Logout {
        whom: Whom,
        why: Why,
    },
    CutOff {
        whom: Whom,
        life_s: Option<u64>,
    },
    Lift {
        order: usize,
    },
    Deny {
        session: usize,
    },
    Suspend {
        client: usize,
    },
    Unsuspend {
        client: usize,
    },
    Revoke {
        family: usize,
    },
    Gap,
    Close,
    Report {
        session: usize,
    },
    /// A login under the `sid` of one that lives.
    Relogin {
        session: usize,
    },
    Wait {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0_usize..100;
    let life = || prop::option::weighted(0.3, prop::sample::select(vec![40_u64, 90, 600]));
    let why = prop::sample::select(vec![Why::Plain, Why::Security, Why::Compromise]);
    let whom = || {
        let n = 0_usize..100;
        prop_oneof![
            3 => n.clone().prop_map(Whom::Session),
            2 => n.clone().prop_map(Whom::Subject),
            1 => n.clone().prop_map(Whom::AllBut),
            1 => n.clone().prop_map(Whom::Client),
            1 => (n.clone(), n).prop_map(|(sub, client)| Whom::SubjectAtClient(sub, client)),
        ]
    };
    prop_oneof![
        4 => (n.clone(), life()).prop_map(|(sub, life_s)| Step::Login { sub, life_s }),
        6 => (n.clone(), n.clone(), prop::bool::weighted(0.3), life())
            .prop_map(|(session, client, offline, life_s)| Step::Issue { session, client, offline, life_s }),
        3 => n.clone().prop_map(|family| Step::Access { family }),
        5 => n.clone().prop_map(|family| Step::Refresh { family }),
        1 => (n.clone(), n.clone()).prop_map(|(family, back)| Step::Reuse { family, back }),
        2 => (whom(), why).prop_map(|(whom, why)| Step::Logout { whom, why }),
        1 => (prop_oneof![4 => whom(), 1 => Just(Whom::Everyone)], life()).prop_map(|(whom, life_s)| Step::CutOff { whom, life_s }),
        1 => n.clone().prop_map(|order| Step::Lift { order }),
        1 => n.clone().prop_map(|session| Step::Deny { session }),
        1 => n.clone().prop_map(|client| Step::Suspend { client }),
        2 => n.clone().prop_map(|client| Step::Unsuspend { client }),
        1 => n.clone().prop_map(|family| Step::Revoke { family }),
        1 => Just(Step::Gap),
        1 => Just(Step::Close),
        2 => n.clone().prop_map(|session| Step::Report { session }),
        2 => n.prop_map(|session| Step::Relogin { session }),
        2 => (5_u64..60).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

struct Session {
    sub: usize,
    /// The number of its `sid`, which another one may have had before.
    sid: usize,
    live: bool,
    over_at: Option<Timestamp>,
    began_at: Timestamp,
    reported_at: Timestamp,
}

struct Family {
    client: usize,
    session: usize,
    offline: bool,
    revoked: bool,
    life_s: Option<u64>,
    /// Name, and when it was issued.
    tokens: Vec<(String, Timestamp)>,
}

struct Access {
    family: usize,
    name: String,
    issued_at: Timestamp,
    expires_at: Timestamp,
    parted: bool,
}

struct Order {
    whom: Whom,
    not_before: Timestamp,
    expires_at: Option<Timestamp>,
    id: String,
}

/// What is not known of the time before this.
struct Gap {
    ends_at: Timestamp,
    id: String,
}

/// What should be true.
#[derive(Default)]
struct Model {
    sessions: Vec<Session>,
    families: Vec<Family>,
    access: Vec<Access>,
    orders: Vec<Order>,
    gaps: Vec<Gap>,
    suspended: [bool; CLIENTS.len()],
    /// Numbers of `sid`s.
    denied: Vec<usize>,
}

/// Whether something is good; unknown within a moment of an end by time.
type Expected = Option<bool>;

fn alive(now: Timestamp, ends: impl IntoIterator<Item = Option<Timestamp>>) -> Expected {
    let ends: Vec<Timestamp> = ends.into_iter().flatten().collect();
    if ends.iter().any(|end| now.plus(MARGIN) > *end && end.plus(MARGIN) > now) {
        return None;
    }
    Some(ends.iter().all(|end| now < *end))
}

impl Model {
    fn is_of(&self, whom: Whom, family: &Family) -> bool {
        let session = &self.sessions[family.session];
        match whom {
            Whom::Session(of) => session.sid == self.sessions[of].sid,
            Whom::Subject(sub) => session.sub == sub,
            Whom::AllBut(of) => session.sub == self.sessions[of].sub && session.sid != self.sessions[of].sid,
            Whom::Client(client) => family.client == client,
            Whom::SubjectAtClient(sub, client) => session.sub == sub && family.client == client,
            Whom::Everyone => true,
        }
    }

    fn cut(&self, family: &Family, issued_at: Timestamp, now: Timestamp) -> Option<bool> {
        let mut cut = Some(false);
        for order in &self.orders {
            // A cut-off by sid is about what hangs on that session.
            let of = self.is_of(order.whom, family) && !(family.offline && matches!(order.whom, Whom::Session(_)));
            if of && issued_at.seconds() < order.not_before.seconds() {
                match alive(now, [order.expires_at]) {
                    Some(true) => return Some(true),
                    Some(false) => {}
                    None => cut = None,
                }
            }
        }
        cut
    }

    fn is_denied(&self, session: &Session) -> bool {
        self.denied.contains(&session.sid)
    }

    /// Whether nobody has said since a gap that what was known before it lives. What is of a session is as unsure as the session.
    fn is_hidden(&self, session: &Session, known_at: Timestamp, now: Timestamp) -> Option<bool> {
        let mut hidden = Some(false);
        for gap in self.gaps.iter().filter(|gap| known_at.min(session.began_at) < gap.ends_at) {
            if !session.live || session.reported_at < gap.ends_at {
                return Some(true);
            }
            // One whose time is up may have been ended by now, or not yet.
            if alive(now, [session.over_at]) != Some(true) {
                hidden = None;
            }
        }
        hidden
    }

    fn refresh_is_good(&self, family: usize, token: usize, now: Timestamp) -> Expected {
        let family = &self.families[family];
        let (session, (_, issued_at)) = (&self.sessions[family.session], &family.tokens[token]);
        let current = token + 1 == family.tokens.len();
        if family.revoked || !current || self.suspended[family.client] || self.is_denied(session) || (!family.offline && !session.live) {
            return Some(false);
        }
        let expires = family.life_s.map(|life| issued_at.plus(Duration::from_secs(life)));
        let over = session.over_at.filter(|_| !family.offline);
        let known_at = family.tokens[0].1;
        Some(alive(now, [expires, over])? && !self.cut(family, *issued_at, now)? && !self.is_hidden(session, known_at, now)?)
    }

    fn access_is_good(&self, access: usize, now: Timestamp) -> Expected {
        let access = &self.access[access];
        let family = &self.families[access.family];
        let session = &self.sessions[family.session];
        if family.revoked || access.parted || self.suspended[family.client] || self.is_denied(session) || !session.live {
            return Some(false);
        }
        let bound = Family { offline: false, tokens: Vec::new(), ..*family };
        let cut = self.cut(&bound, access.issued_at, now)?;
        Some(alive(now, [Some(access.expires_at), session.over_at])? && !cut && !self.is_hidden(session, access.issued_at, now)?)
    }

    fn end(&mut self, whom: Whom, why: Why) {
        let families: Vec<usize> = (0..self.families.len()).filter(|at| self.is_of(whom, &self.families[*at])).collect();
        for at in families {
            self.families[at].revoked |= !self.families[at].offline || why != Why::Plain;
            for access in self.access.iter_mut().filter(|access| access.family == at) {
                access.parted = true;
            }
        }
        for at in 0..self.sessions.len() {
            let ends = match whom {
                Whom::Session(of) => self.sessions[at].sid == self.sessions[of].sid,
                Whom::Subject(sub) => self.sessions[at].sub == sub,
                Whom::AllBut(of) => self.sessions[at].sub == self.sessions[of].sub && self.sessions[at].sid != self.sessions[of].sid,
                Whom::Client(_) | Whom::SubjectAtClient(..) => false,
                Whom::Everyone => true,
            };
            self.sessions[at].live &= !ends;
        }
    }

    /// A login under the `sid` of a session that lives: another one, where a gap hides that one, and word of it where none does.
    fn sign_in_again(&mut self, at: usize, now: Timestamp) {
        let Session { sub, sid, reported_at, .. } = self.sessions[at];
        if self.gaps.iter().all(|gap| reported_at >= gap.ends_at) {
            self.sessions[at].reported_at = now;
            return;
        }
        self.sessions[at].live = false;
        for family in self.families.iter_mut().filter(|family| family.session == at) {
            family.revoked |= !family.offline;
        }
        self.sessions.push(Session { sub, sid, live: true, over_at: None, began_at: now, reported_at: now });
    }

    /// What the reuse of a token of this family ends.
    fn reuse(&mut self, family: usize) {
        self.families[family].revoked = true;
        let Family { client, session, offline, .. } = self.families[family];
        match CLIENTS[client].1 {
            "session" if !offline => self.end(Whom::Session(session), Why::Compromise),
            "subject" => self.end(Whom::Subject(self.sessions[session].sub), Why::Compromise),
            _ => {}
        }
    }
}

/// One history at an issuer of its own.
struct History<'a> {
    stage: &'a Stage,
    provider: Api,
    issuer: String,
    model: Model,
    names: usize,
}

impl History<'_> {
    fn path(&self, rest: &str) -> String {
        format!("/v1/issuers/{}/{rest}", self.issuer)
    }

    fn now(&self) -> Timestamp {
        self.stage.server.clock.now()
    }

    fn at(&self, seconds: u64) -> String {
        self.now().plus(Duration::from_secs(seconds)).to_string()
    }

    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}-{}-{}", self.issuer, self.names)
    }

    fn sid(&self, session: usize) -> String {
        format!("s-{}", self.model.sessions[session].sid)
    }

    fn target(&self, whom: Whom) -> Value {
        let sid = |at: usize| self.sid(at);
        let sub = |sub: usize| format!("user-{sub}");
        match whom {
            Whom::Session(at) => json!({"sid": sid(at)}),
            Whom::Subject(at) => json!({"sub": sub(at)}),
            Whom::AllBut(at) => json!({"sub": sub(self.model.sessions[at].sub), "except_sid": sid(at)}),
            Whom::Client(client) => json!({"client_id": CLIENTS[client].0}),
            Whom::SubjectAtClient(at, client) => json!({"sub": sub(at), "client_id": CLIENTS[client].0}),
            Whom::Everyone => json!({"everyone": true}),
        }
    }

    /// What a step's number means, if there is anything.
    fn whom(&self, whom: Whom) -> Option<Whom> {
        let session = |at: usize| at.checked_rem(self.model.sessions.len());
        Some(match whom {
            Whom::Session(at) => Whom::Session(session(at)?),
            Whom::AllBut(at) => Whom::AllBut(session(at)?),
            Whom::Subject(at) => Whom::Subject(at % SUBJECTS),
            Whom::Client(at) => Whom::Client(at % CLIENTS.len()),
            Whom::SubjectAtClient(at, client) => Whom::SubjectAtClient(at % SUBJECTS, client % CLIENTS.len()),
            Whom::Everyone => Whom::Everyone,
        })
    }

    fn family(&self, at: usize) -> Option<usize> {
        at.checked_rem(self.model.families.len())
    }

    fn live_session(&self, at: usize) -> Option<usize> {
        let at = at.checked_rem(self.model.sessions.len())?;
        let session = &self.model.sessions[at];
        (session.live && alive(self.now(), [session.over_at]) == Some(true)).then_some(at)
    }

    fn is_current(&self, family: usize) -> Expected {
        self.model.refresh_is_good(family, self.model.families[family].tokens.len() - 1, self.now())
    }

    fn login(&self, sub: usize) -> Value {
        let participants: Vec<_> = CLIENTS.iter().map(|(client_id, _)| json!({"client_id": client_id})).collect();
        json!({"sub": format!("user-{sub}"), "started_at": self.now().to_string(), "participants": participants})
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each thing that can happen")]
    async fn take(&mut self, step: Step) {
        self.stage.server.advance(Duration::from_secs(2));
        match step {
            Step::Login { sub, life_s } => {
                let (sub, at) = (sub % SUBJECTS, self.model.sessions.len());
                let mut body = self.login(sub);
                if let Some(life) = life_s {
                    body["expires_at"] = json!(self.at(life));
                }
                let over_at = life_s.map(|life| self.now().plus(Duration::from_secs(life)));
                self.provider.put(&self.path(&format!("sessions/s-{at}")), body).await.expect(201);
                let now = self.now();
                self.model.sessions.push(Session { sub, sid: at, live: true, over_at, began_at: now, reported_at: now });
            }
            Step::Issue { session, client, offline, life_s } => {
                let (Some(session), client) = (self.live_session(session), client % CLIENTS.len()) else { return };
                if self.model.suspended[client] {
                    return;
                }
                let name = self.name("rt");
                let mut body = json!({"sid": self.sid(session), "client_id": CLIENTS[client].0, "token": name, "offline_access": offline});
                if let Some(life) = life_s {
                    body["expires_at"] = json!(self.at(life));
                }
                let issued_at = self.now();
                self.provider.post(&self.path("refresh-tokens"), body).await.expect(201);
                let tokens = vec![(name, issued_at)];
                self.model.families.push(Family { client, session, offline, revoked: false, life_s, tokens });
            }
            Step::Access { family } => {
                let Some(at) = self.family(family).filter(|at| self.is_current(*at) == Some(true)) else { return };
                let Some(session) = self.live_session(self.model.families[at].session) else { return };
                let (name, issued_at, expires_at) = (self.name("at"), self.now(), self.now().plus(Duration::from_secs(300)));
                let Family { client, tokens, .. } = &self.model.families[at];
                let body = json!({"sid": self.sid(session), "client_id": CLIENTS[*client].0, "token": name,
                                  "refresh_token": tokens.last().unwrap().0, "expires_at": expires_at.to_string()});
                self.provider.post(&self.path("access-tokens"), body).await.expect(201);
                self.model.access.push(Access { family: at, name, issued_at, expires_at, parted: false });
            }
            Step::Refresh { family } => {
                let Some(at) = self.family(family) else { return };
                let Some(good) = self.is_current(at) else { return };
                let successor = self.name("rt");
                let Family { client, tokens, life_s, .. } = &self.model.families[at];
                let mut body = json!({"client_id": CLIENTS[*client].0, "token": tokens.last().unwrap().0, "successor": successor});
                if let Some(life) = life_s {
                    body["expires_at"] = json!(self.at(*life));
                }
                let issued_at = self.now();
                let answer = self.provider.post(&self.path("refresh-tokens/rotate"), body).await;
                assert_eq!(answer.status, if good { 200 } else { 400 }, "{answer:?}");
                if good {
                    self.model.families[at].tokens.push((successor, issued_at));
                }
            }
            Step::Reuse { family, back } => {
                let Some(at) = self.family(family).filter(|at| self.is_current(*at) == Some(true)) else { return };
                let Family { client, tokens, .. } = &self.model.families[at];
                let Some(old) = back.checked_rem(tokens.len() - 1) else { return };
                let (client, old, successor) = (CLIENTS[*client].0, tokens[old].0.clone(), self.name("rt"));
                let body = json!({"client_id": client, "token": old, "successor": successor});
                self.provider.post(&self.path("refresh-tokens/rotate"), body).await.expect(400);
                self.model.reuse(at);
            }
            Step::Logout { whom, why } => {
                let Some(whom) = self.whom(whom) else { return };
                let reason = match why {
                    Why::Plain => "user_logout",
                    Why::Security => "password_changed",
                    Why::Compromise => "compromise",
                };
                let body = json!({"target": self.target(whom), "reason": reason});
                assert!(self.provider.post(&self.path("logouts"), body).await.is_success());
                self.model.end(whom, why);
            }
            Step::CutOff { whom, life_s } => {
                let Some(whom) = self.whom(whom).filter(|whom| !matches!(whom, Whom::AllBut(_))) else { return };
                let not_before = self.now();
                let mut body = json!({"scope": self.target(whom), "not_before": not_before.to_string()});
                if let Some(life) = life_s {
                    body["expires_at"] = json!(self.at(life));
                }
                let expires_at = life_s.map(|life| not_before.plus(Duration::from_secs(life)));
                let id = self.stage.admin.post(&self.path("cut-offs"), body).await.expect(201)["id"].as_str().unwrap().to_owned();
                self.model.orders.push(Order { whom, not_before, expires_at, id });
            }
            Step::Lift { order } => {
                let Some(at) = order.checked_rem(self.model.orders.len()) else { return };
                let order = self.model.orders.remove(at);
                let lifted = self.stage.admin.delete(&self.path(&format!("cut-offs/{}", order.id))).await;
                // One that ceased by itself may be gone.
                assert!(lifted.status == 204 || order.expires_at.is_some_and(|at| self.now() >= at), "{lifted:?}");
            }
            Step::Deny { session } => {
                let Some(at) = session.checked_rem(self.model.sessions.len()) else { return };
                let body = json!({"sid": self.sid(at), "expires_at": self.at(1_000_000)});
                assert!(self.stage.admin.post(&self.path("denylist"), body).await.is_success());
                self.model.denied.push(self.model.sessions[at].sid);
            }
            Step::Suspend { client } | Step::Unsuspend { client } => {
                let (client, suspended) = (client % CLIENTS.len(), matches!(step, Step::Suspend { .. }));
                let call = if suspended { "suspend" } else { "unsuspend" };
                let path = self.path(&format!("clients/{}/{call}", CLIENTS[client].0));
                assert!(send(self.stage.admin.request(Method::POST, &path)).await.is_success());
                self.model.suspended[client] = suspended;
            }
            Step::Revoke { family } => {
                let Some(at) = self.family(family) else { return };
                let token = self.model.families[at].tokens.last().unwrap().0.clone();
                self.provider.form(&format!("/{}/revoke", self.issuer), &[("token", &token)]).await.expect(200);
                self.model.families[at].revoked = true;
            }
            Step::Gap => {
                let since = self.now().minus(Duration::from_secs(60)).to_string();
                let gap = self.stage.admin.post(&self.path("gaps"), json!({"since": since})).await.expect(201);
                let ends_at = Timestamp::parse(gap["until"].as_str().unwrap()).unwrap();
                self.model.gaps.push(Gap { ends_at, id: gap["id"].as_str().unwrap().to_owned() });
            }
            Step::Close => {
                let Some(gap) = self.model.gaps.pop() else { return };
                self.stage.admin.post(&self.path(&format!("gaps/{}/close", gap.id)), json!(null)).await.expect(200);
            }
            Step::Report { session } => {
                let Some(at) = self.live_session(session) else { return };
                let body = json!({"sub": format!("user-{}", self.model.sessions[at].sub)});
                self.provider.put(&self.path(&format!("sessions/{}", self.sid(at))), body).await.expect(200);
                self.model.sessions[at].reported_at = self.now();
            }
            Step::Relogin { session } => {
                let Some(at) = self.live_session(session) else { return };
                let body = self.login(self.model.sessions[at].sub);
                assert!(self.provider.put(&self.path(&format!("sessions/{}", self.sid(at))), body).await.is_success());
                self.model.sign_in_again(at, self.now());
            }
            Step::Wait { seconds } => self.stage.server.advance(Duration::from_secs(seconds)),
        }
    }

    /// Every token is what the model says.
    async fn compare(&self, taken: &[Step]) {
        for (at, family) in self.model.families.iter().enumerate() {
            for (token, (name, _)) in family.tokens.iter().enumerate() {
                self.compare_one(name, |now| self.model.refresh_is_good(at, token, now), taken).await;
            }
        }
        for (at, access) in self.model.access.iter().enumerate() {
            self.compare_one(&access.name, |now| self.model.access_is_good(at, now), taken).await;
        }
    }

    async fn compare_one(&self, name: &str, expected: impl Fn(Timestamp) -> Expected, taken: &[Step]) {
        let answer = self.provider.form(&format!("/{}/introspect", self.issuer), &[("token", name)]).await.expect(200);
        if let Some(expected) = expected(self.now()) {
            assert_eq!(answer["active"], json!(expected), "{name} after {taken:#?}");
        }
    }
}

async fn history(stage: &Stage, number: u32, steps: &[Step]) {
    let issuer = format!("h-{number}");
    let body = json!({"id": issuer, "issuer": format!("https://id.example.com/{issuer}"), "signing_algs": ["ES256"]});
    stage.admin.post("/v1/issuers", body).await.expect(201);
    for (client_id, reuse_scope) in CLIENTS {
        let body = json!({"tokens": {"reuse_scope": reuse_scope}});
        stage.admin.put(&format!("/v1/issuers/{issuer}/clients/{client_id}"), body).await.expect(201);
    }
    let provider = stage.admin.mint(json!({"role": "provider", "issuer": issuer, "may_mass_kill": true})).await;
    let mut history = History { stage, provider, issuer, model: Model::default(), names: 0 };
    for (at, step) in steps.iter().enumerate() {
        history.take(*step).await;
        history.compare(&steps[..=at]).await;
    }
}

on_both_engines! {
    async fn a_token_is_good_exactly_when_a_plain_model_says_so_after_any_history(database) {
        let stage = Stage::set(database).await;
        let histories = std::env::var("LOGOUTD_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(HISTORIES_DEFAULT);
        // A seed of its own for each number of histories: the same run is repeated by the same number.
        let seed: [u8; 32] = std::array::from_fn(|at| u8::try_from((histories as usize * 31 + at * 7) % 251).unwrap());
        let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
        for number in 0..histories {
            let steps = prop::collection::vec(step(), STEPS).new_tree(&mut runner).unwrap().current();
            history(&stage, number, &steps).await;
        }
    }
}
