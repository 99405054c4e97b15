//! The switch: arguments and environment in, an exit status out.

use std::process::ExitCode;

use logoutd::cli::{self, Chain};

fn main() -> ExitCode {
    let cli = cli::parse(std::env::args_os());
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let known = error.downcast_ref::<cli::Error>();
            if known.is_none_or(cli::Error::is_told) {
                eprintln!("logoutd: {}", Chain(error.as_ref()));
            }
            if let Some(advice) = known.map(cli::Error::advice).filter(|advice| !advice.is_empty()) {
                eprintln!("{advice}");
            }
            known.map_or(ExitCode::FAILURE, cli::Error::exit_code)
        }
    }
}

fn run(cli: cli::Cli) -> anyhow::Result<()> {
    let variables = std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(cli::run(cli, variables.collect()))?;
    Ok(())
}
