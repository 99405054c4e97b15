//! Where a request comes from, found once, before anybody asks.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Extensions, HeaderName};
use axum::middleware::Next;
use axum::response::Response;

use crate::model::origin::{ForwardedBy, Forwarding, Origin};
use crate::observe::OriginUnsaid;
use crate::plan::forwarded;

/// Where the request comes from; none where no connection brought it.
pub fn origin(extensions: &Extensions) -> Option<Origin> {
    extensions.get::<Origin>().copied()
}

/// Leaves word of it with the request.
pub(super) async fn locate(State(forwarding): State<Arc<Forwarding>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    if let Some(peer) = peer {
        let values = request.headers().get_all(header(forwarding.by)).iter();
        let origin = forwarded::origin(&forwarding, peer, values.map(|value| value.to_str().ok()));
        if let Origin::Unsaid(proxy, how) = origin {
            OriginUnsaid { how, proxy }.emit();
        }
        request.extensions_mut().insert(origin);
    }
    next.run(request).await
}

const fn header(by: ForwardedBy) -> HeaderName {
    match by {
        ForwardedBy::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
        ForwardedBy::Forwarded => axum::http::header::FORWARDED,
    }
}
