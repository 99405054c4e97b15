//! logoutd, a coordinator for OpenID Connect back-channel logout.
pub mod app;
pub mod cli;
pub mod config;
pub mod egress;
pub mod lifecycle;
pub mod model;
pub mod observe;
pub mod plan;
pub mod seams;
pub mod store;
pub mod token;
