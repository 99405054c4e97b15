//! The switch: arguments and environment in, an exit status out.

use std::process::ExitCode;

use logoutd::cli;

fn main() -> ExitCode {
    let cli = cli::parse(std::env::args_os());
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("logoutd: {error:#}");
            let Some(error) = error.downcast_ref::<cli::Error>() else { return ExitCode::FAILURE };
            if !error.advice().is_empty() {
                eprintln!("{}", error.advice());
            }
            error.exit_code()
        }
    }
}

fn run(cli: cli::Cli) -> anyhow::Result<()> {
    let variables = std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(cli::run(cli, variables.collect()))?;
    Ok(())
}
