//! What is told of this server to others: traces to a collector, alarms to whoever looks after it. Both leave by the guarded way out, inside the
//! deployment's ceiling.

use std::sync::Arc;
use std::time::Duration;

use url::Url;
use zeroize::Zeroizing;

use super::Error;
use crate::config::Config;
use crate::egress::{BadUrl, Egress, Keep, Method, Request};
use crate::lifecycle::Tasks;
use crate::model::attempt::Outcome;
use crate::model::client::Network;
use crate::observe::traces::{TIMEOUT, TraceSettings, Tracer, Transport};
use crate::seams::{Clock, Entropy};
use crate::upkeep::alarms::Hook;

/// How long the last spans may take after everything else has ended.
const FLUSH_MAX: Duration = Duration::from_secs(3);

/// What may be reached for the deployment itself: whatever registrations could be excepted.
fn network(config: &Config) -> Network {
    Network { allow: config.network.allow.clone(), ca_pem: None }
}

/// What the configuration wants told where nothing may be: the setting, and why not.
pub(super) fn bad_urls(config: &Config, egress: &Egress) -> Vec<(&'static str, BadUrl)> {
    let collector = config.telemetry.endpoint.as_ref().map(|url| ("telemetry.otlp_endpoint", url));
    let hook = config.alarms.hook.as_ref().map(|(url, _)| ("alarms.url", url));
    let network = network(config);
    collector.into_iter().chain(hook).filter_map(|(setting, url)| Some((setting, egress.check(url, &network).err()?))).collect()
}

/// A tracer; one that records where a collector is configured.
pub(super) fn tracer(config: &Config, egress: &Arc<Egress>, clock: &Clock, entropy: &Entropy, tasks: &Tasks) -> Result<Tracer, Error> {
    let Some(endpoint) = &config.telemetry.endpoint else { return Ok(Tracer::off()) };
    let network = network(config);
    let settings = TraceSettings {
        endpoint: endpoint.to_string(),
        sample_ratio: f64::from(config.telemetry.sample_percent) / 100.0,
        service_name: config.telemetry.service_name.clone(),
    };
    let to = Arc::new(Collector {
        egress: Arc::clone(egress),
        url: endpoint.clone(),
        network,
        headers: config.telemetry.headers.clone(),
        clock: clock.clone(),
    });
    let transport: Transport = Arc::new(move |body| Box::pin(send(Arc::clone(&to), body)));
    let (tracer, telling) = Tracer::new(&settings, transport, clock.clone(), entropy.clone())?;
    drop(tasks.spawn("traces", telling));
    Ok(tracer)
}

struct Collector {
    egress: Arc<Egress>,
    url: Url,
    network: Network,
    headers: Vec<(String, Zeroizing<String>)>,
    clock: Clock,
}

async fn send(to: Arc<Collector>, body: Vec<u8>) -> Result<u16, String> {
    let own = [("content-type", "application/x-protobuf")];
    let headers: Vec<_> = own.into_iter().chain(to.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))).collect();
    let request = Request {
        method: Method::Post,
        url: &to.url,
        network: &to.network,
        headers: &headers,
        body: &body,
        secrets: &[],
        keep: Keep::Excerpt,
        timeout: TIMEOUT,
        now: to.clock.now(),
    };
    let answer = to.egress.send(request).await;
    match answer.outcome {
        Outcome::Answered { status, .. } => Ok(status),
        Outcome::Failed(failure) => Err(answer.detail.unwrap_or_else(|| failure.to_string())),
    }
}

/// Tells what was recorded until now, and ends telling.
pub(super) async fn flush(tracer: &Tracer, tasks: &Tasks) {
    tracer.close();
    if tokio::time::timeout(FLUSH_MAX, tasks.wait()).await.is_err() {
        tracing::warn!("the collector of traces did not take the last spans in time");
        tasks.stop().force();
        tasks.wait().await;
    }
}

/// Where alarms are told, if anywhere.
pub(super) fn hook(config: &Config) -> Option<Hook> {
    let (url, secret) = config.alarms.hook.as_ref()?;
    Some(Hook { url: url.clone(), network: network(config), secret: secret.clone(), repeat: config.alarms.repeat })
}
