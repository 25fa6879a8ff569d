//! The APIs other than that for receipts: each with its own limit and its own part of the ledger, fed by the same
//! world. Strict by the same rules: the URL's parameters, the body, the rate.

mod answer;
mod list;
mod request;

use std::sync::Arc;

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{ConnectInfo, Request, State},
    http::Uri,
    response::Response,
    routing::post,
};

pub(super) use self::list::APIS;
use self::list::Api;
use super::{
    answer::refuse,
    fault::Fault,
    refusal::Refusal,
    server::{json, spoilt},
    service::Service,
    wire::Wire,
};

/// Maximum size of a request.
const MAX_REQUEST_BYTES: usize = 64 << 10;

pub(super) fn routes() -> Router<Arc<Service>> {
    APIS.iter().fold(Router::new(), |router, api| {
        let handler = move |State(service): State<Arc<Service>>,
                            ConnectInfo(wire): ConnectInfo<Wire>,
                            request: Request| async move {
            let (head, body) = request.into_parts();
            let body = to_bytes(body, MAX_REQUEST_BYTES).await;
            call(&service, api, &wire, &head.uri, body).await
        };
        router.route(&format!("/v4/group_open_http_svc/{}", api.name), post(handler))
    })
}

/// One call from its arrival to its answer.
async fn call(
    service: &Arc<Service>,
    api: &'static Api,
    wire: &Wire,
    uri: &Uri,
    body: Result<Bytes, axum::Error>,
) -> Response {
    let is_within_limit = service.arrive_at(api.name);
    let judged = service.check_url(uri).and_then(|_| {
        let body = body.map_err(|error| Refusal::Body(error.to_string()))?;
        (api.parse)(&body)
    });
    let judged = if is_within_limit { judged } else { Err(Refusal::TooManyCalls) };
    let fault = judged.as_ref().ok().and_then(|_| service.strike_api(api.name));
    let answer = judged.and_then(|asked| answer::answer(&service.world, &asked, service.now()));
    service.wait(service.latency() + fault.as_ref().map(Fault::wait_before_answering).unwrap_or_default()).await;
    let answer = match fault {
        Some(Fault::ErrorCode { code }) => Err(Refusal::Ordered(code)),
        Some(fault) => {
            service.end_at(api.name, None);
            return spoilt(&fault, answer.unwrap_or_default().to_string().into(), wire);
        }
        None => answer,
    };
    service.end_at(api.name, Some(answer.as_ref().map_or_else(Refusal::code, |_| 0)));
    json(answer.map_or_else(|refusal| refuse(&refusal), |answer| answer.to_string().into_bytes()).into())
}
