//! logoutd, a coordinator for OpenID Connect back-channel logout: when a session must end, it ends everywhere, and one can prove it.
//!
//! A trigger enters by a door, is verified, becomes a plan, is committed once, and from then on a patient courier tells every relying party until it
//! has an answer or gives up aloud. What one transaction cannot hold, and what nobody asks for, is done by chores. This page is the map of the house;
//! each room says at its head what it owns and what it never does.
//!
//! # The corridor
//!
//! ```text
//!  receive   a door: cap, parse into types that cannot be wrong, authenticate the caller
//!  plan      what the trigger reaches: effects, cut-off, class                         pure
//!  store     commit: end sessions, read participants by ending them, revoke grants,
//!            write event, deliveries, cut-off, idempotency key, audit record           one transaction
//!            of more than 1,000 sessions, or of everybody: event, cut-off, epoch, work one transaction
//!  reply     a receipt: 2xx means durably accepted
//!  upkeep    a page of the work: end, revoke, write deliveries, move its position      one transaction each
//!  deliver   deal slots to lanes → lease → look for newer logins → sign a fresh token
//!            → post → settle, and note what the answer says of the receiver            until answered or given up
//!  answer    the receipt, as it stands: expanding → delivering → settled; or each delivery as it settles
//! ```
//!
//! * Commit before deliver. No HTTP inside a transaction; nothing is marked done before its outcome is in hand.
//! * There is no in-flight state and no rescuer: a delivery is due when it is pending and its time has come, and a claim moves that time to the end
//!   of its lease.
//! * A logout of many is true at once and done by and by: its cut-off makes tokens inactive with the commit, and its set is what an earlier epoch
//!   registered. A report that touches a session which is over and not ended yet ends it first.
//! * Sessions that end by their age pass the same way as those that are logged out; only the trigger is missing.
//! * Whether a token is active is one pure decision over facts: introspection, forward-auth, rotation and revocation gather them and ask there.
//! * The middle is pure. What an answer means, when to try again, what a late report means, whether a token is active: values in, values out.
//! * No hidden state. Bells, free slots, streaks of failures and parsed keys in memory may be lost at any moment; the database alone is true. That is
//!   why several processes may share it, and any of them may be killed.
//!
//! # The rooms
//!
//! | Room | What it is |
//! |---|---|
//! | [`model`] | the nouns, and which of their states are legal |
//! | [`token`] | logout tokens written and read, signing keys, key sets, sealing; the audit chain and signed receipts |
//! | [`plan`] | every decision |
//! | [`store`] | the vault: every SQL statement, on SQLite and PostgreSQL |
//! | [`egress`] | the only way out, and its guard |
//! | [`issuers`] | the address book: what providers publish about themselves, their keys, what they say of their tokens; and the keys of clients |
//! | [`observe`] | the names of everything that happens; metrics, traces and logs |
//! | [`http`] | the façade: router, authentication, where a request comes from, limits, problem documents |
//! | [`receive`] | the doors: reports, lists of what lives, tokens and their rotation and revocation, logouts and their undoing, providers' logout tokens, and what is said about deliveries |
//! | [`answer`] | the windows: receipts, progress, deliveries, sessions, introspection and forward-auth, metadata, keys, health |
//! | [`registry`] | the desk: issuers, clients and what holds them, by API or as the configuration declares them, keys, API tokens, cut-offs and denials by order, gaps, secrets of subjects, erasure, the audit trail |
//! | [`deliver`] | the courier: whose turn it is, attempts, probes |
//! | [`upkeep`] | the chores: works, expiry, horizons, lanes, retention, keys, the ends of certificates, alarms, the clock, the sealing of the audit trail; and the company of other replicas |
//! | [`cli`] | the command line, a client of the HTTP API; the store itself only for migrations, backups, restores and moves |
//! | [`config`], [`lifecycle`], [`bells`], [`seams`], [`app`] | settings; start and stop; who wakes whom; clock and chance; the wiring |
//!
//! Direction: `main → cli → app → {receive, answer, registry, deliver, upkeep} → http → issuers → {token, plan, store, egress, observe} → model`. Nothing
//! points upward; each foreign crate lives in one room. A test reads `src/` and fails when a room reaches outside its row.
//!
//! # Words, one meaning each
//!
//! *issuer* · *subject* (`sub`) · *session id* (`sid`) · *client*, a registered relying party · *participant*, a client in a session with the `sub` and
//! `sid` it saw · *grant*, a family of refresh tokens · *trigger*, a verified reason to act · *event*, a committed trigger, on the API a *logout* ·
//! *target*, what a logout names · *delivery*, the duty to tell one client one thing, or the provider that a session ended or a
//! token was revoked: a *notice* · *attempt*,
//! *outcome* · *lease* · *settled*: delivered, rejected, expired, superseded, cancelled or unreachable · *receipt* · *cut-off*, a not-before instant ·
//! *late joiner*, a participant reported after its logout.
//!
//! *successor*, a key that waits until everybody can know it: *next*, then *active*, *retired*, *withdrawn* · *visible*, where relying parties look for
//! keys · *sealed anew*, after the sealing key changed.
//!
//! *lane*, the queue of one client or of a provider: *open* while its receiver is away, *parked* when somebody must look at it, *paused* by an operator ·
//! *host*, what the lanes of one address have in common · *probe*, the one attempt in a while that an open lane or host is given · *slot*, the place of
//! one attempt in this process · *class*, how urgent: compromise, interactive or bulk · *work*, what one transaction cannot hold, done in *pages* from
//! its *position* · *expanding*, how a logout stands while its work is not done · *epoch*, a number of the issuer's that counts logouts of many, and that
//! whatever is registered carries · *chore*, a function that looks for what is due and may be called at any time · *bell*, what wakes somebody and says
//! nothing · *replica*, one of the processes that share a database · *share*, a replica's part of a number that all share.
//!
//! *generation*, how often a family was *rotated*: each token has one *successor*, within a *grace* the same for all who ask, and the *reuse* of an older one
//! is a compromise · *ordered*, of a cut-off that somebody asked for: it ends tokens and no session · *denial*, a name on the denylist · *asker*, who wants
//! to know whether a token is good · *assertion*, a JWT by which a client says who it is · *profile*, what forward-auth demands in one place · *residual*,
//! what may still work elsewhere after an end · *token event*, something noticed about a token that should not happen.
//!
//! *declared*, of an issuer or a client: registered by the configuration and changed nowhere else; *released*, when it is not declared any more · *overlap*,
//! how long a secret is good beside its successor · *gap*, a stretch of time of which a restored database knows nothing, *open* until somebody answers for it ·
//! *trail*, the audit records in the order in which they were *linked* to their chain; *proof*, what says that this server wrote a record; *head*, the chain's
//! signed end; *checkpoint*, the signed end of what was forgotten ·
//! *alarm*, a trouble that somebody outside is told of, *open* until it is over · *account*, the durable sum of what was written, forgotten and is there.
//!
//! *relay*, a provider's logout token for one of its clients, and its passing on: *verbatim* as it came, or one of *ours* in its place · *cascade*, a
//! provider's logout token for this server · *join*, of tokens about one session in one receipt · *echo*, a token that says what is being told already.

pub mod answer;
pub mod app;
pub mod bells;
pub mod cli;
pub mod config;
pub mod deliver;
pub mod egress;
pub mod http;
pub mod issuers;
pub mod lifecycle;
pub mod model;
pub mod observe;
pub mod plan;
pub mod receive;
pub mod registry;
pub mod seams;
pub mod store;
pub mod token;
pub mod upkeep;
