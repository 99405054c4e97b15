//! One binary for every test that looks at logoutd from outside.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, which is all it can do")]

mod architecture;
mod command_line;
