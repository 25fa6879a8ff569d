//! Passes webhooks on to another handler, unchanged and at most once.
//!
//! It never delays anything: webhooks that the handler doesn't accept in time are left out.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    http::{HeaderMap, header::CONTENT_TYPE},
};
use reqwest::{Client, Url, redirect::Policy};
use tokio::sync::Semaphore;

use crate::chat::proxy::by_proxy_for;

/// Maximum time until the handler has answered.
const PATIENCE: Duration = Duration::from_secs(2);

/// Maximum number of webhooks on their way to the handler.
const ON_THE_WAY: usize = 64;

/// The other handler.
#[derive(Debug, Clone)]
pub(super) struct Forward {
    url: Url,
    client: Option<Client>,
    places: Arc<Semaphore>,
}

impl Forward {
    pub fn new(url: Url) -> Self {
        // Another part of the process may have installed one first: any provider will do.
        _ = rustls::crypto::ring::default_provider().install_default();
        let client = client(&url).inspect_err(|error| {
            let error: &(dyn std::error::Error + 'static) = &**error;
            tracing::error!(error, "webhooks can't be passed on to webhooks.forward");
        });
        Self { url, client: client.ok(), places: Arc::new(Semaphore::new(ON_THE_WAY)) }
    }

    /// Passes a webhook on, unless too many are on their way.
    pub fn pass_on(&self, query: Option<&str>, headers: &HeaderMap, body: Bytes) {
        let count = |result: &'static str| {
            metrics::counter!("receiptd_webhooks_forwarded_total", "result" => result).increment(1);
        };
        let (Some(client), Ok(place)) = (&self.client, self.places.clone().try_acquire_owned()) else {
            return count("left_out");
        };
        let mut url = self.url.clone();
        url.set_query(query);
        let mut request = client.post(url).body(body);
        if let Some(content_type) = headers.get(CONTENT_TYPE) {
            request = request.header(CONTENT_TYPE, content_type);
        }
        tokio::spawn(async move {
            let _place = place;
            let is_taken = request.send().await.is_ok_and(|answer| answer.status().is_success());
            count(if is_taken { "taken" } else { "failed" });
        });
    }
}

/// A client that shows no signature to a proxy.
fn client(url: &Url) -> Result<Client, Box<dyn std::error::Error>> {
    let client = Client::builder().timeout(PATIENCE).redirect(Policy::none()).retry(reqwest::retry::never());
    Ok(by_proxy_for(url, client)?.build()?)
}
