//! One binary for every test that looks at logoutd from outside.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that panics has failed, which is all it can do")]

mod harness;

mod access_tokens_jwt;
mod architecture;
mod backup;
mod bad_input;
mod check;
mod client_auth;
mod command_line;
mod configuration;
mod commands;
mod corridor;
mod courier;
mod crash;
mod cut_offs;
mod declared;
mod denylist;
mod egress;
mod expiry;
mod gateways;
mod guard;
mod guides;
mod hang_up;
mod histories;
mod introspection;
mod keys;
mod lanes;
mod live;
mod many;
mod moving;
mod operators;
mod provider;
mod relay;
mod replicas;
mod residual;
mod retention;
mod revocation;
mod revocations;
mod roles;
mod rotation;
mod secrets;
mod stop;
mod store;
mod tokens;
mod upkeep;
