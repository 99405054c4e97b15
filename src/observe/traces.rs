//! Traces: what belongs together, told to a collector over OTLP, and passed on to whoever is asked in turn.
//!
//! A span is made of the one it is below, which came with a request (W3C Trace Context), was stored with a logout, or is the scope a task runs in
//! ([`within`]). Without a collector nothing is recorded, and what was given is passed on as it came. A span tells routes, hosts, statuses and ids of our
//! own; never a subject, a session id, a token, or a URL, which may hold secrets.
//!
//! That somebody records a trace is believed of those alone who show who they are: anybody else could fill the queue.
//!
//! A collector costs nothing but spans: they wait in a queue of bounded length, and what does not fit or is not taken is counted and gone.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc;

use super::events::SpansDropped;
use crate::model::trace::TraceContext;
use crate::model::{RequestId, Timestamp};
use crate::seams::{Clock, Entropy};

pub use opentelemetry::trace::SpanKind;

/// How many spans wait at most.
const QUEUE_MAX: usize = 4096;
/// How many spans are told at once.
const BATCH_MAX: usize = 512;
/// How long more spans are waited for once there is one.
const LINGER: Duration = Duration::from_millis(500);
/// How long one telling may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// What is told to a collector, and how often.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// Where `/v1/traces` is.
    pub endpoint: String,
    /// Which part of the traces that begin here is recorded.
    pub sample_ratio: f64,
    /// What this service calls itself.
    pub service_name: String,
}

/// A request's body to the collector; the status of its answer, or why there was none.
pub type Transport = Arc<dyn Fn(Vec<u8>) -> Pin<Box<dyn Future<Output = Result<u16, String>> + Send>> + Send + Sync>;

/// Makes spans. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Recording>>);

struct Recording {
    queue: Mutex<Option<mpsc::Sender<SpanData>>>,
    ratio: f64,
    scope: InstrumentationScope,
    clock: Clock,
    entropy: Entropy,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("ratio", &self.ratio).finish_non_exhaustive()
    }
}

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
#[error("the collector cannot be told: {0}")]
pub struct TraceError(String);

impl Tracer {
    /// Records nothing, and passes on what was given.
    pub const fn off() -> Self {
        Self(None)
    }

    /// A tracer, and the task that tells what it records; the task ends after [`Tracer::close`].
    pub fn new(
        settings: &TraceSettings,
        transport: Transport,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), TraceError> {
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Carrier(transport))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(settings.endpoint.clone())
            .with_headers(HashMap::new())
            .with_timeout(TIMEOUT)
            // What waits between two tries would keep everything behind it from being told.
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .map_err(|error| TraceError(error.to_string()))?;
        let version = env!("CARGO_PKG_VERSION");
        let resource = Resource::builder_empty()
            .with_service_name(settings.service_name.clone())
            .with_attribute(KeyValue::new("service.version", version))
            .build();
        exporter.set_resource(&resource);
        let (queue, spans) = mpsc::channel(QUEUE_MAX);
        let recording = Recording {
            queue: Mutex::new(Some(queue)),
            ratio: settings.sample_ratio,
            scope: InstrumentationScope::builder("logoutd").with_version(version).build(),
            clock,
            entropy,
        };
        Ok((Self(Some(Arc::new(recording))), tell(exporter, spans)))
    }

    /// Nothing is recorded from here on; the task tells what waits, and ends.
    pub fn close(&self) {
        if let Some(recording) = &self.0 {
            recording.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// A span below this one; without one, perhaps the first of a trace.
    pub fn begin(&self, kind: SpanKind, name: impl Into<Cow<'static, str>>, parent: Option<TraceContext>) -> Span {
        match (&self.0, parent) {
            (Some(recording), None) if recording.entropy.unit() < recording.ratio => {
                let mut octets = [0; 16];
                recording.entropy.fill(&mut octets);
                let context = TraceContext::new(u128::from_be_bytes(octets).max(1), recording.span_id());
                recording.span(kind, name.into(), context, 0)
            }
            (Some(recording), Some(parent)) if parent.is_sampled() => {
                let context = parent.below(recording.span_id());
                recording.span(kind, name.into(), context, parent.span_id())
            }
            (Some(_) | None, passed) => Span { context: passed, recorded: None },
        }
    }

    /// Whether a trace that came with a request waits for [`vouch`]. What is recorded of traces that begin here, is recorded of anybody's.
    pub fn doubt(&self, given: Option<&TraceContext>) -> Doubt {
        let sampled = given.is_some_and(TraceContext::is_sampled);
        let doubtful = |recording: &Arc<Recording>| sampled && recording.entropy.unit() >= recording.ratio;
        Doubt(Arc::new(AtomicBool::new(self.0.as_ref().is_some_and(doubtful))))
    }

    /// A span below this one; nothing where there is none.
    pub fn go_on(&self, kind: SpanKind, name: impl Into<Cow<'static, str>>, parent: Option<TraceContext>) -> Span {
        match parent {
            Some(parent) => self.begin(kind, name, Some(parent)),
            None => Span::none(),
        }
    }
}

impl Recording {
    fn span_id(&self) -> u64 {
        self.entropy.number().max(1)
    }

    fn span(self: &Arc<Self>, kind: SpanKind, name: Cow<'static, str>, context: TraceContext, parent: u64) -> Span {
        let (started, began) = (self.clock.now(), self.clock.instant());
        let recorded =
            Recorded { recording: Arc::clone(self), kind, name, parent, started, began, attributes: Vec::new(), status: Status::Unset };
        Span { context: Some(context), recorded: Some(Box::new(recorded)) }
    }

    fn keep(&self, span: SpanData) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.as_ref().is_none_or(|queue| queue.try_send(span).is_err()) {
            SpansDropped { count: 1, why: "queue" }.emit();
        }
    }
}

/// Something that takes time, and what it belongs to. Told when it ends; one that is dropped is not told.
#[derive(Debug)]
pub struct Span {
    context: Option<TraceContext>,
    recorded: Option<Box<Recorded>>,
}

#[derive(Debug)]
struct Recorded {
    recording: Arc<Recording>,
    kind: SpanKind,
    name: Cow<'static, str>,
    parent: u64,
    started: Timestamp,
    began: Instant,
    attributes: Vec<KeyValue>,
    status: Status,
}

impl Span {
    /// Belongs to nothing and is not told.
    pub const fn none() -> Self {
        Self { context: None, recorded: None }
    }

    /// What is below it belongs here.
    pub fn context(&self) -> Option<TraceContext> {
        self.context.clone()
    }

    /// Another name: what it is may be known later than that it began.
    pub fn rename(&mut self, name: impl Into<Cow<'static, str>>) {
        if let Some(recorded) = &mut self.recorded {
            recorded.name = name.into();
        }
    }

    /// Notes something about it.
    pub fn note(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(recorded) = &mut self.recorded {
            recorded.attributes.push(KeyValue::new(key, value));
        }
    }

    /// It failed, in a word of a closed set.
    pub fn fail(&mut self, class: &'static str) {
        self.note("error.type", class);
        if let Some(recorded) = &mut self.recorded {
            recorded.status = Status::error(class);
        }
    }

    /// It is over.
    pub fn end(self) {
        let Self { context: Some(context), recorded: Some(recorded) } = self else { return };
        let Recorded { recording, kind, name, parent, started, began, attributes, status } = *recorded;
        let start_time = SystemTime::UNIX_EPOCH + Duration::from_millis(started.millis().unsigned_abs());
        let state = context.tracestate().and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
        let (trace_id, span_id) =
            (TraceId::from_bytes(context.trace_id().to_be_bytes()), SpanId::from_bytes(context.span_id().to_be_bytes()));
        recording.keep(SpanData {
            span_context: SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, false, state),
            parent_span_id: SpanId::from_bytes(parent.to_be_bytes()),
            parent_span_is_remote: matches!(kind, SpanKind::Server | SpanKind::Client),
            span_kind: kind,
            name,
            start_time,
            end_time: start_time + recording.clock.instant().saturating_duration_since(began),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: recording.scope.clone(),
        });
    }
}

/// What a task works on: its part of a trace, and the request it answers.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Makes what is recorded below.
    pub tracer: Tracer,
    /// Where it belongs.
    pub trace: Option<TraceContext>,
    /// The request.
    pub request: Option<RequestId>,
    /// Whether nothing of it is recorded so far.
    pub doubt: Doubt,
}

/// Whether a trace came with a request of which nobody knows whose it is; then it is passed on, and not recorded.
#[derive(Clone, Debug, Default)]
pub struct Doubt(Arc<AtomicBool>);

impl Doubt {
    /// Whether it is so still.
    pub fn stands(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

tokio::task_local! {
    static SCOPE: Scope;
}

/// Runs a future within a scope: what it logs, sends and commits belongs there.
pub async fn within<F: Future>(scope: Scope, future: F) -> F::Output {
    SCOPE.scope(scope, future).await
}

/// The same, for what is done at once.
pub fn inside<T>(scope: Scope, work: impl FnOnce() -> T) -> T {
    SCOPE.sync_scope(scope, work)
}

/// Where the present task belongs.
pub fn current() -> Option<TraceContext> {
    SCOPE.try_with(|scope| scope.trace.clone()).ok().flatten()
}

/// Whoever sent the present request showed who it is: the trace it came with is recorded if it says so.
pub fn vouch() {
    SCOPE.try_with(|scope| scope.doubt.0.store(false, Ordering::Relaxed)).unwrap_or_default();
}

/// A span below the present one; nothing outside of any scope.
pub fn begin_here(kind: SpanKind, name: &'static str) -> Span {
    let begin = |scope: &Scope| match (scope.doubt.stands(), scope.trace.clone()) {
        (true, context) => Span { context, recorded: None },
        (false, trace) => scope.tracer.go_on(kind, name, trace),
    };
    SCOPE.try_with(begin).unwrap_or(Span::none())
}

/// What a log line of the present task is found by.
pub(super) fn marks() -> (Option<TraceContext>, Option<RequestId>) {
    SCOPE.try_with(|scope| (scope.trace.clone(), scope.request.clone())).unwrap_or_default()
}

/// Tells what comes until nothing more can.
async fn tell(exporter: SpanExporter, mut spans: mpsc::Receiver<SpanData>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while spans.recv_many(&mut batch, BATCH_MAX).await > 0 {
        if batch.len() < BATCH_MAX && !spans.is_closed() {
            gather(&mut spans, &mut batch).await;
        }
        let count = batch.len();
        if let Err(error) = exporter.export(std::mem::take(&mut batch)).await {
            SpansDropped { count, why: "collector" }.emit();
            tracing::debug!(error = &error as &dyn std::error::Error, "the collector did not take spans");
        }
    }
}

/// Waits a little for more, so that not every span is a request of its own.
async fn gather(spans: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) {
    let full = async {
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            if spans.recv_many(batch, room).await == 0 {
                return;
            }
        }
    };
    drop(tokio::time::timeout(LINGER, full).await);
}

/// The exporter's way out is ours. Whatever headers it wants to send, beside those of the configuration, stay here.
struct Carrier(Transport);

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Carrier")
    }
}

impl HttpClient for Carrier {
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let sent = (self.0)(request.into_body().to_vec());
        Box::pin(async move {
            let status = sent.await?;
            Ok(Response::builder().status(status).body(Bytes::new())?)
        })
    }
}
