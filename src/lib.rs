//! logoutd, a coordinator for OpenID Connect back-channel logout.
pub mod egress;
pub mod app;
pub mod cli;
pub mod config;
pub mod lifecycle;
pub mod model;
pub mod plan;
pub mod observe;
pub mod seams;
pub mod store;
pub mod token;
