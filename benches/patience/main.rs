//! What patience and proof cost, measured from outside: the real service, the load and the relying parties are processes of their own.
//!
//! `cargo bench --bench patience -- isolation`, `everyone` or `introspection`; each says at its head what it measures.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a measurement that fails has nothing to say")]

mod everyone;
mod introspection;
mod isolation;
mod support;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1));
    let number = |name: &str, default: usize| value(name).map_or(default, |value| value.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match arguments.first().map(String::as_str) {
        Some("parties") => support::be_parties(),
        Some("isolation") => runtime.block_on(isolation::run(number)),
        Some("everyone") => runtime.block_on(everyone::run(number("--sessions", 20_000), value("--database-url").cloned())),
        Some("introspection") => runtime.block_on(introspection::run(number, value("--database-url").cloned())),
        Some(_) | None => println!("usage: cargo bench --bench patience -- isolation | everyone | introspection"),
    }
}
