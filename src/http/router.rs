//! The router: routes with their description, and what surrounds every request.
//!
//! A route can only be added together with its `OpenAPI` description ([`Routes`] takes nothing else), so the two cannot differ.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, ResponseBuilder};
use utoipa::{PartialSchema as _, ToSchema as _};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::origin::locate;
use super::problem::{Code, Fault, FieldError, Problem, ProblemDocument};
use super::state::AppState;
use crate::lifecycle::Tasks;
use crate::model::trace::TraceContext;
use crate::observe::traces::{Scope, Span, SpanKind, Tracer, within};
use crate::observe::{Method, RequestFailed, RequestServed};
use crate::seams::{Clock, Entropy};

/// Routes with their descriptions.
#[derive(Clone, Default)]
pub struct Routes(OpenApiRouter<AppState>);

impl Routes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what `routes!` makes of handlers of one path.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "nobody adds routes with a plus sign")]
    pub fn add(self, routes: UtoipaMethodRouter<AppState>) -> Self {
        Self(self.0.routes(routes))
    }

    /// The same, for every path below theirs too: whoever asks may append the path that was asked of it, which no parameter of a description can be.
    #[must_use]
    pub fn add_with_all_below(self, path: &str, routes: UtoipaMethodRouter<AppState>) -> Self {
        let methods = routes.2.clone();
        let below = self.0.routes(routes).route(&format!("{path}/"), methods.clone());
        Self(below.route(&format!("{path}/{{*rest}}"), methods))
    }

    /// Adds all routes of a room.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self(self.0.merge(other.0))
    }

    /// The `OpenAPI` document of these routes.
    pub fn document(&self) -> OpenApi {
        let mut document = frame();
        document.merge(self.0.get_openapi().clone());
        for (path, item) in &mut document.paths.paths {
            operations(item).for_each(|(method, operation)| complete(method, path, operation));
        }
        document
    }

    /// The router of these routes, inside everything that surrounds a request.
    pub fn into_router(self, app: AppState) -> Router {
        let document = Document(self.document().to_json().unwrap_or_default().into());
        let (router, _) = self.0.split_for_parts();
        let (clock, entropy, tasks, tracer) = (app.clock.clone(), app.entropy.clone(), app.tasks.clone(), app.tracer.clone());
        let around = Around { clock, entropy, tasks, tracer, timeout: app.settings.request_timeout, body_patience: BODY_PATIENCE };
        let located = from_fn_with_state(Arc::clone(&app.settings.forwarding), locate);
        enclose(router.with_state(app).layer(Extension(document)).layer(located), around)
    }
}

/// The `OpenAPI` document of the router a request came through, in JSON.
#[derive(Clone, Debug)]
pub struct Document(pub Arc<str>);

fn frame() -> OpenApi {
    let scheme = |scheme, description: &str| SecurityScheme::Http(HttpBuilder::new().scheme(scheme).description(Some(description)).build());
    let components = ComponentsBuilder::new()
        .schemas_from_iter(super::wire::text::schemas())
        .schema(ProblemDocument::name(), ProblemDocument::schema())
        .schema(FieldError::name(), FieldError::schema())
        .security_scheme("bearer", scheme(HttpAuthScheme::Bearer, "An API token."))
        .security_scheme(
            "basic",
            scheme(
                HttpAuthScheme::Basic,
                "A client's `client_id` and `client_secret`, or an API token as the password under any user name.",
            ),
        )
        .build();
    let info = InfoBuilder::new()
        .title("logoutd")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Ends a session everywhere, and proves it. Errors are problem documents (RFC 9457); their type is stable."))
        .build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem { get, put, post, delete, patch, head, options, trace, .. } = item;
    let all = [
        ("get", get),
        ("put", put),
        ("post", post),
        ("delete", delete),
        ("patch", patch),
        ("head", head),
        ("options", options),
        ("trace", trace),
    ];
    all.into_iter().filter_map(|(method, operation)| operation.as_mut().map(|operation| (method, operation)))
}

/// Gives an operation a name of its own and, where errors are problem documents, says so of every status it does not name.
fn complete(method: &str, path: &str, operation: &mut Operation) {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    operation.operation_id = Some(std::iter::once(method).chain(words).collect::<Vec<_>>().join("_"));
    if path.starts_with("/v1/") {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(ProblemDocument::name()))).build();
        let problem = ResponseBuilder::new().description("Any other error").content("application/problem+json", content).build();
        operation.responses.responses.entry("default".to_owned()).or_insert_with(|| problem.into());
    }
}

/// What surrounding a request takes.
#[derive(Clone)]
struct Around {
    clock: Clock,
    entropy: Entropy,
    tasks: Tasks,
    tracer: Tracer,
    timeout: Duration,
    body_patience: Duration,
}

/// How long nothing of a request's body may come. Who sends a head and keeps the rest would have one of the places that all share.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

fn enclose(router: Router, around: Around) -> Router {
    router
        .method_not_allowed_fallback(async || Problem::of(Code::MethodNotAllowed))
        .fallback(async || Problem::of(Code::NotFound))
        .layer(from_fn_with_state(around, surround))
        .layer(from_fn(seal))
}

/// Runs a request in a task of its own: a caller who hangs up does not interrupt a transaction, a panic is an answer, and time is bounded.
async fn surround(State(around): State<Around>, request: Request, next: Next) -> Response {
    let method = Method::named(request.method().as_str());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let begun = around.clock.instant();
    let given = given_trace(request.headers());
    let doubt = around.tracer.doubt(given.as_ref());
    let mut span = begin_span(&around.tracer, method, route.as_ref(), given);
    let id = around.entropy.id(around.clock.now());
    let scope = Scope { tracer: around.tracer.clone(), trace: span.context(), request: Some(id), doubt: doubt.clone() };
    let answered_within = scope.clone();
    let heard = CancellationToken::new();
    let request = request.map(|body| read_until(body, heard.clone(), around.body_patience));
    let _answered = heard.drop_guard();
    let work = {
        let route = route.clone();
        // A fault is told from within, so that the log has it even when the caller is gone.
        let work = async move { told(next.run(request).await, route.as_ref()) };
        around.tasks.spawn("request", within(scope, work))
    };
    let response = match tokio::time::timeout(around.timeout, work).await {
        Ok(answered) => answered.unwrap_or_else(|died| told(Problem::from(died).into_response(), route.as_ref())),
        Err(_) => Problem::timed_out().into_response(),
    };
    let route = route.as_ref().map(MatchedPath::as_str);
    let status = response.status().as_u16();
    within(answered_within, async { RequestServed { route, method, status, duration: begun.elapsed() }.emit() }).await;
    // Whoever it was did not say, and is not taken at its word that this is recorded.
    if doubt.stands() {
        return response;
    }
    span.note("http.request.method", method.as_str());
    if let Some(route) = route {
        span.note("http.route", route.to_owned());
    }
    span.note("http.response.status_code", i64::from(status));
    if status >= 500 {
        span.fail("5xx");
    }
    span.end();
    response
}

/// The span of a request. Where monitoring asks by itself, every few seconds, no trace begins.
fn begin_span(tracer: &Tracer, method: Method, route: Option<&MatchedPath>, given: Option<TraceContext>) -> Span {
    let name = span_name(method, route);
    let is_polled = route.is_some_and(|route| matches!(route.as_str(), "/healthz" | "/readyz" | "/metrics"));
    if is_polled { tracer.go_on(SpanKind::Server, name, given) } else { tracer.begin(SpanKind::Server, name, given) }
}

/// The method and the template of the route, never its values.
fn span_name(method: Method, route: Option<&MatchedPath>) -> String {
    route.map_or_else(|| method.as_str().to_owned(), |route| format!("{} {}", method.as_str(), route.as_str()))
}

/// W3C Trace Context 3.2: of two one cannot be right, so neither is taken.
fn given_trace(headers: &HeaderMap) -> Option<TraceContext> {
    let mut given = headers.get_all("traceparent").iter();
    let (only, more) = (given.next()?.to_str().ok()?, given.next());
    let states = headers.get_all("tracestate").iter().map(|state| state.to_str().unwrap_or("?"));
    more.is_none().then(|| TraceContext::parse(only, states)).flatten()
}

/// A body that breaks off when nothing of it comes for a while, and once its request is answered: work that still waits for the rest would keep the
/// connection for as long as the peer likes.
fn read_until(body: Body, answered: CancellationToken, patience: Duration) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let chunks = body.into_data_stream();
    Body::from_stream(stream::unfold((chunks, answered), move |(mut chunks, answered)| async move {
        let chunk = tokio::select! {
            biased;
            chunk = chunks.next() => chunk?,
            () = answered.cancelled() => Err(axum::Error::new(BrokenOff::Answered)),
            () = tokio::time::sleep(patience) => Err(axum::Error::new(BrokenOff::Silent)),
        };
        Some((chunk, (chunks, answered)))
    }))
}

/// Why nobody waits for the rest of a body.
#[derive(Debug, thiserror::Error)]
enum BrokenOff {
    #[error("the request was answered before its body ended")]
    Answered,
    #[error("nothing more of the body came")]
    Silent,
}

/// The answer, after the log was told if it is our fault.
fn told(response: Response, route: Option<&MatchedPath>) -> Response {
    if let Some(Fault { instance, cause }) = response.extensions().get() {
        RequestFailed { instance, route: route.map(MatchedPath::as_str), error: cause.as_ref() }.emit();
    }
    response
}

/// Headers of every answer that does not say otherwise.
async fn seal(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use axum::body::to_bytes;
    use axum::http::header::{ALLOW, CONTENT_TYPE};
    use axum::http::{Method, StatusCode};
    use tokio::sync::Notify;
    use utoipa_axum::routes;

    #[utoipa::path(get, path = "/v1/things/{id}", responses((status = 200)))]
    async fn show() -> &'static str {
        "thing"
    }

    #[utoipa::path(delete, path = "/v1/things/{id}", responses((status = 200)))]
    async fn break_down() -> &'static str {
        panic!("the handler's own secret")
    }

    fn around(timeout: Duration) -> Around {
        let (clock, entropy, body_patience) = (Clock::system(), Entropy::os(), BODY_PATIENCE);
        Around { clock, entropy, tasks: Tasks::default(), tracer: Tracer::off(), timeout, body_patience }
    }

    async fn ask(router: Router, method: Method, path: &str) -> Response {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        axum::handler::Handler::call(axum::routing::any_service(router), request, ()).await
    }

    async fn problem(response: Response) -> serde_json::Value {
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        serde_json::from_slice(&to_bytes(response.into_body(), 1 << 16).await.unwrap()).unwrap()
    }

    fn things() -> Router {
        let described: UtoipaMethodRouter = routes!(show, break_down);
        let (router, _) = OpenApiRouter::new().routes(described).split_for_parts();
        enclose(router, around(Duration::from_secs(5)))
    }

    /// What makes a document useless to a generator: references to nothing, names that are not unique, security schemes nobody describes.
    pub(crate) fn flaws(document: &OpenApi) -> Vec<String> {
        let json = serde_json::to_value(document).unwrap();
        let (mut flaws, mut ids) = (Vec::new(), std::collections::BTreeSet::new());
        let mut rest = vec![&json];
        while let Some(value) = rest.pop() {
            match value {
                serde_json::Value::Object(members) => {
                    for (name, member) in members {
                        match (name.as_str(), member.as_str()) {
                            ("$ref", Some(to)) if json.pointer(to.trim_start_matches('#')).is_none() => {
                                flaws.push(format!("{to} is nothing"));
                            }
                            ("operationId", Some(id)) if !ids.insert(id) => flaws.push(format!("{id} is not unique")),
                            ("security", None) => flaws.extend(unknown_schemes(&json, member)),
                            _ => {}
                        }
                        rest.push(member);
                    }
                }
                serde_json::Value::Array(items) => rest.extend(items),
                serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) | serde_json::Value::String(_) => {}
            }
        }
        flaws
    }

    fn unknown_schemes(document: &serde_json::Value, security: &serde_json::Value) -> Vec<String> {
        let alternatives = security.as_array().into_iter().flatten().filter_map(serde_json::Value::as_object);
        let names = alternatives.flat_map(serde_json::Map::keys);
        names
            .filter(|name| document["components"]["securitySchemes"].get(*name).is_none())
            .map(|name| format!("{name} is no scheme"))
            .collect()
    }

    #[utoipa::path(get, path = "/v1/flawed", security(("magic" = [])), responses((status = 200, body = inline(Flawed))))]
    async fn flawed() {}

    #[derive(utoipa::ToSchema)]
    #[expect(dead_code, reason = "only its description matters")]
    struct Flawed {
        #[schema(schema_with = nowhere)]
        field: String,
    }

    fn nowhere() -> Ref {
        Ref::from_schema_name("Nowhere")
    }

    #[test]
    fn a_flawed_document_is_told_from_a_sound_one() {
        assert_eq!(flaws(&Routes::new().add(routes!(show, break_down)).document()), Vec::<String>::new());
        let mut found = flaws(&Routes::new().add(routes!(flawed)).document());
        found.sort();
        assert_eq!(found, ["#/components/schemas/Nowhere is nothing", "magic is no scheme"]);
    }

    #[test]
    fn what_is_routed_is_described() {
        let document = Routes::new().add(routes!(show, break_down)).document();
        let item = &document.paths.paths["/v1/things/{id}"];
        assert!(item.get.is_some() && item.delete.is_some() && item.post.is_none());
        assert!(document.components.unwrap().security_schemes.contains_key("bearer"));
    }

    #[tokio::test]
    async fn an_unknown_route_and_a_wrong_method_are_problems_too() {
        let unknown = ask(things(), Method::GET, "/nowhere").await;
        assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
        assert_eq!(problem(unknown).await["type"], "urn:logoutd:problem:not-found");
        let wrong = ask(things(), Method::POST, "/v1/things/1").await;
        assert_eq!(wrong.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(wrong.headers()[ALLOW], "GET,HEAD,DELETE");
        assert_eq!(problem(wrong).await["type"], "urn:logoutd:problem:method-not-allowed");
    }

    #[tokio::test]
    async fn a_panic_is_answered_with_an_instance_id_and_nothing_of_the_panic() {
        let document = problem(ask(things(), Method::DELETE, "/v1/things/1").await).await;
        assert_eq!(document["status"], 500);
        assert!(document["instance"].is_string() && !document.to_string().contains("secret"), "{document}");
    }

    #[tokio::test]
    async fn a_request_out_of_time_is_answered_and_still_finishes() {
        let (gate, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler = {
            let (gate, done) = (gate.clone(), done.clone());
            async move || {
                gate.notified().await;
                done.notify_one();
            }
        };
        let router = enclose(Router::new().route("/slow", axum::routing::get(handler)), around(Duration::from_millis(20)));
        let document = problem(ask(router, Method::GET, "/slow").await).await;
        assert_eq!(document["type"], "urn:logoutd:problem:unavailable");
        gate.notify_one();
        tokio::time::timeout(Duration::from_secs(5), done.notified()).await.expect("the work goes on after the answer");
    }

    #[tokio::test]
    async fn a_body_of_which_nothing_more_comes_breaks_off_long_before_the_time_is_up() {
        let handler = async |body: Body| if to_bytes(body, 1 << 16).await.is_err() { "broke off" } else { "whole" };
        let around = Around { body_patience: Duration::from_millis(20), ..around(Duration::from_hours(1)) };
        let router = enclose(Router::new().route("/slow", axum::routing::post(handler)), around);
        let first = stream::iter([Ok::<_, std::convert::Infallible>("a part")]);
        let request = Request::builder().method(Method::POST).uri("/slow").body(Body::from_stream(first.chain(stream::pending()))).unwrap();
        let asked = axum::handler::Handler::call(axum::routing::any_service(router), request, ());
        let answer = tokio::time::timeout(Duration::from_secs(5), asked).await.expect("it is answered soon");
        assert_eq!(to_bytes(answer.into_body(), 64).await.unwrap(), "broke off");
    }

    #[tokio::test]
    async fn a_body_that_comes_too_slowly_breaks_off_once_the_time_is_up() {
        let broken = Arc::new(Notify::new());
        let handler = {
            let broken = broken.clone();
            async move |body: Body| {
                if to_bytes(body, 1 << 16).await.is_err() {
                    broken.notify_one();
                }
            }
        };
        let router = enclose(Router::new().route("/slow", axum::routing::post(handler)), around(Duration::from_millis(20)));
        let first = stream::iter([Ok::<_, std::convert::Infallible>("a part")]);
        let request = Request::builder().method(Method::POST).uri("/slow").body(Body::from_stream(first.chain(stream::pending()))).unwrap();
        let document = problem(axum::handler::Handler::call(axum::routing::any_service(router), request, ()).await).await;
        assert_eq!(document["type"], "urn:logoutd:problem:unavailable");
        tokio::time::timeout(Duration::from_secs(5), broken.notified()).await.expect("nobody waits for the rest");
    }
}
