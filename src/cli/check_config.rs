//! `logoutd check-config`: everything that is wrong with the configuration, or all of it without its secrets.

use clap::Args;
use serde_json::{Value, json};

use super::output::print;
use super::{Error, ServeArgs, Variables};
use crate::app;
use crate::config::{Arguments, Config, Exposed, Mistake, Mistakes, Source};

/// `check-config`
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    settings: ServeArgs,
    /// Print the settings, or the mistakes, as JSON
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of the configuration file, and check nothing
    #[arg(long, conflicts_with = "json")]
    schema: bool,
}

/// A configuration in which nothing is wrong that can be seen without the database.
pub(super) fn settled(arguments: &Arguments, variables: Variables) -> Result<Config, Mistakes> {
    let (config, mut mistakes) = Config::examine(arguments, variables);
    app::examine(&config, &mut mistakes);
    if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
}

/// Checks it as `serve` would, and serves nothing.
pub(super) fn run(args: CheckArgs, variables: Variables) -> Result<(), Error> {
    let CheckArgs { settings, json, schema } = args;
    if schema {
        return print(&format!("{:#}", app::configuration_schema()));
    }
    let settled = settled(&settings.into(), variables);
    for Exposed { setting, path } in settled.iter().flat_map(|config| &config.exposed) {
        eprintln!("{setting}: {} may be read by others than its owner: chmod 600 it, or 640 where root owns it", path.display());
    }
    match settled {
        Ok(config) if json => print(&format!("{:#}", in_json(&config))),
        Ok(config) => in_words(&config),
        Err(mistakes) => {
            if json {
                print(&format!("{:#}", json!({ "ok": false, "mistakes": mistakes.0.iter().map(mistake).collect::<Vec<_>>() })))?;
            }
            Err(mistakes.into())
        }
    }
}

fn in_words(config: &Config) -> Result<(), Error> {
    print("ok")?;
    config.settings().iter().try_for_each(|setting| print(&format!("  {} = {} ({})", setting.path, setting.shown, setting.source)))
}

fn in_json(config: &Config) -> Value {
    let setting = |path: &str, shown: &str, from: &Source| json!({ "setting": path, "value": shown, "source": source(from) });
    let settings: Vec<_> = config.settings().iter().map(|found| setting(&found.path, &found.shown, &found.source)).collect();
    json!({ "ok": true, "settings": settings })
}

fn mistake(mistake: &Mistake) -> Value {
    let setting = |(path, from): &(String, Source)| json!({ "setting": path, "source": source(from) });
    json!({ "settings": mistake.settings.iter().map(setting).collect::<Vec<_>>(), "why": mistake.why })
}

fn source(source: &Source) -> Value {
    match source {
        Source::Default => json!({ "kind": "default" }),
        Source::File { path, line } => json!({ "kind": "file", "file": path.display().to_string(), "line": line }),
        Source::Variable(name) => json!({ "kind": "variable", "name": name }),
        Source::Argument(name) => json!({ "kind": "argument", "name": name }),
    }
}
