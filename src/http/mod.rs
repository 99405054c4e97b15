//! The façade: how a request becomes values, and how an answer becomes HTTP.
//!
//! Owns the router, authentication, limits, strict parsing and the problem documents. Never decides what a logout does and never sends anything.
//! Doors, windows and the desk are written on top of it: a handler takes its parts by the extractors of this room, and every mistake of a caller
//! comes back as one [`Problem`] with a stable type and the field at fault.
//!
//! Why our own extractors: axum's answer mistakes in plain text, let duplicate members pass, and cannot name the field.

pub mod access;
pub mod client_auth;
pub mod form;
pub mod json;
pub mod limiter;
pub mod line;
pub mod origin;
pub mod page;
pub mod problem;
pub mod provider_keys;
pub mod query;
pub mod reply;
pub mod router;
pub mod shapes;
pub mod state;
pub mod streams;
pub mod throttle;
pub mod uses;
pub mod wire;

pub use access::{Anywhere, At, Authenticated, Seat, Somewhere, Vigil, needs, public_issuer};
pub use client_auth::{Asker, OauthAt};
pub use form::{Form, FormUpTo};
pub use json::{NoBody, Registration, StrictJson};
pub use line::{Line, Note, Scope};
pub use origin::origin;
pub use page::{List, page};
pub use problem::{Code, FieldError, OauthError, Problem, ProblemDocument};
pub use query::{Path, Query};
pub use reply::{Reply, if_match};
pub use router::Routes;
pub use state::AppState;
pub use wire::{Text, Written};
