//! Where log lines go: standard error, as JSON or as text.

use std::fmt;

pub use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::traces;

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Sends log lines of this level and graver ones, and the panics of every thread, to standard error. Only the first call in a process counts.
pub fn init(format: Format, level: Level) {
    let writer = std::io::stderr;
    let layer = match format {
        Format::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(writer)
            .map_event_format(Marked)
            .boxed(),
        Format::Text => tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer).boxed(),
    };
    if tracing_subscriber::registry().with(layer.with_filter(ours(level))).try_init().is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            tracing::error!(location = panic.location().map(tracing::field::display), "a thread panicked");
        }));
    }
}

/// A JSON line that begins with the trace and the request it belongs to.
struct Marked<F>(F);

impl<S, N, F> FormatEvent<S, N> for Marked<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (trace, request) = traces::marks();
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let Some(rest) = line.strip_prefix('{') else { return writer.write_str(&line) };
        writer.write_char('{')?;
        // Hexadecimal digits and ids of ours need no escape.
        if let Some(trace) = trace {
            write!(writer, "\"trace_id\":\"{:032x}\",\"span_id\":\"{:016x}\",", trace.trace_id(), trace.span_id())?;
        }
        if let Some(request) = request {
            write!(writer, "\"request_id\":\"{request}\",")?;
        }
        writer.write_str(rest)
    }
}

/// The level is for our own lines: below a warning, the crates we use would log headers and statements.
fn ours(level: Level) -> Targets {
    Targets::new().with_default(LevelFilter::WARN.min(level.into())).with_target("logoutd", level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_crates_never_log_more_than_warnings() {
        for level in [Level::TRACE, Level::INFO] {
            assert!(ours(level).would_enable("logoutd::deliver", &level));
            assert!(!ours(level).would_enable("hyper::proto", &Level::INFO));
            assert!(ours(level).would_enable("sqlx::query", &Level::WARN));
        }
        assert!(!ours(Level::ERROR).would_enable("sqlx::query", &Level::WARN));
    }
}
