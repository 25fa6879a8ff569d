//! One attempt over HTTP. Never retries, redirects or waits for a permit: the caller holds the permit for exactly one
//! request. Its errors never contain the URL, which contains the signature.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{Body, StatusCode, Url, header::CONTENT_TYPE, redirect};
use secrecy::{ExposeSecret, SecretString};

use super::{
    body::{GuardedBody, NotSent},
    destination::{Destination, DomainIndex, Domains},
    proxy::{UnusableProxy, by_proxy_for},
    user_sig::{Credential, Signer},
};
use crate::{
    clock::{self, Clock},
    domain::{GroupId, MsgSeq, SdkAppId},
    rules::protocol::{
        attempt::{Attempt, Called},
        call::{Api, Call, GetReceipts},
        error_class::Class,
        failure::Failure,
    },
};

/// Maximum time to set up a connection, including TLS. During that, its call holds a permit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Fraction of the request timeout after which TCP gives up on unacknowledged data. Otherwise the kernel would
/// retransmit requests of attempts that have timed out, and a blocked network would end in a burst of forgotten
/// requests.
const GIVES_UP_AFTER_PART: u32 = 2;

/// The app, its account, and the destination of its calls.
#[derive(Debug, Clone)]
pub struct ChatSettings {
    /// The app whose groups are polled.
    pub sdk_app_id: SdkAppId,
    /// The account of an admin of the app, which makes the calls.
    pub identifier: String,
    /// The key or signature of that account.
    pub credential: Credential,
    /// The region or endpoint to call.
    pub destination: Destination,
}

/// The client can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The TLS library has no CA certificates, or could not start.
    #[error("setting up the HTTP client failed: are CA certificates installed (Debian: ca-certificates)?")]
    Setup(#[source] reqwest::Error),
    /// The endpoint is not a URL.
    #[error("chat.endpoint {0:?} is not a URL such as http://127.0.0.1:9000")]
    Endpoint(String),
    /// The proxy in the environment can't be used.
    #[error(transparent)]
    Proxy(#[from] UnusableProxy),
}

/// The URL of a call without its path and `random`: it only changes with the domain and the signature. No `Debug`,
/// since it is a secret.
struct SignedUrl {
    base: String,
    user_sig: SecretString,
    url: Url,
}

impl SignedUrl {
    fn new(base: &str, sdk_app_id: SdkAppId, identifier: &str, user_sig: SecretString) -> Result<Self, String> {
        let mut url = Url::parse(base).map_err(|error| format!("{base:?} is not a URL: {error}"))?;
        url.query_pairs_mut()
            .append_pair("sdkappid", &sdk_app_id.to_string())
            .append_pair("identifier", identifier)
            .append_pair("usersig", user_sig.expose_secret())
            .append_pair("contenttype", "json");
        Ok(Self { base: base.to_owned(), user_sig, url })
    }

    fn is_for(&self, base: &str, user_sig: &SecretString) -> bool {
        self.base == base && self.user_sig.expose_secret() == user_sig.expose_secret()
    }
}

/// The client of one app.
pub struct ChatClient {
    http: reqwest::Client,
    sdk_app_id: SdkAppId,
    identifier: String,
    signer: Signer,
    clock: Arc<Clock>,
    domains: Mutex<Domains>,
    signed: Mutex<Option<SignedUrl>>,
}

impl fmt::Debug for ChatClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sdk_app_id, identifier, .. } = self;
        f.debug_struct("ChatClient")
            .field("sdk_app_id", sdk_app_id)
            .field("identifier", identifier)
            .finish_non_exhaustive()
    }
}

impl ChatClient {
    /// Sets up the connection pool, which keeps up to `connections` idle ones for reuse. An attempt may take `timeout`,
    /// from connecting to the last byte. Sends nothing.
    ///
    /// # Errors
    /// If the machine has no CA certificates, or the endpoint is not a URL.
    pub fn new(settings: ChatSettings, timeout: Duration, connections: usize) -> Result<Self, ClientError> {
        // Another part of the process may have installed one first: any provider will do.
        _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder();
        // All have the same scheme: the domains of a region, or one endpoint.
        for url in settings.destination.urls() {
            let url = Url::parse(&url).map_err(|_| ClientError::Endpoint(url))?;
            http = by_proxy_for(&url, http)?;
        }
        let http = http
            .user_agent(concat!("receiptd/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .tcp_user_timeout(timeout / GIVES_UP_AFTER_PART)
            .pool_max_idle_per_host(connections)
            // The service requests keep-alive. HTTP/2 would put all calls on one connection, about 100 at a time.
            .http1_only()
            .tcp_nodelay(true)
            // Each of these would send requests without a permit.
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .build()
            .map_err(ClientError::Setup)?;
        Ok(Self {
            http,
            sdk_app_id: settings.sdk_app_id,
            identifier: settings.identifier.clone(),
            signer: Signer::new(settings.sdk_app_id, settings.identifier, settings.credential),
            clock: Arc::new(Clock::new(clock::now)),
            domains: Mutex::new(Domains::new(&settings.destination)),
            signed: Mutex::new(None),
        })
    }

    /// The same, with attempts dated by this clock. Signatures, which the service checks, use this machine's clock.
    #[must_use]
    pub fn dated_by(self, clock: Arc<Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Asks once for the receipts of `seqs` in `group`. `may_send` is asked at the last moment, when the connection
    /// exists.
    ///
    /// # Errors
    /// Returns `NotSent` if that refused; the service was not called.
    pub async fn get_receipts(
        &self,
        group: &GroupId,
        seqs: &[MsgSeq],
        may_send: impl Fn() -> bool + Send + Sync + Unpin + 'static,
    ) -> Result<Attempt, NotSent> {
        let called = self.call(&GetReceipts { group, seqs }, may_send).await?;
        Ok(Attempt::new(called, seqs.len()))
    }

    /// Makes a call once. `may_send` is asked at the last moment, when the connection exists.
    ///
    /// # Errors
    /// Returns `NotSent` if that refused; the service was not called.
    pub async fn call<C: Call>(
        &self,
        call: &C,
        may_send: impl Fn() -> bool + Send + Sync + Unpin + 'static,
    ) -> Result<Called<C::Answer>, NotSent> {
        let start = clock::uptime();
        let written = Arc::new(OnceLock::new());
        let may_send = {
            let written = written.clone();
            move || {
                let may_send = may_send();
                if may_send {
                    // Read last, just before the first byte is given to the connection.
                    _ = written.set(clock::uptime());
                }
                may_send
            }
        };
        let user_sig = self.signer.user_sig(clock::now()).map_err(|error| format!("making a UserSig failed: {error}"));
        let prepared = user_sig.as_ref().map_err(Clone::clone).and_then(|user_sig| self.prepare(call, user_sig));
        let (domain, exchange) = match prepared {
            Ok((domain, url, content)) => {
                (Some(domain), self.exchange(url, GuardedBody::new(content, may_send), call.most_bytes()).await)
            }
            Err(reason) => (None, Err(Unanswered::because(reason))),
        };
        if exchange.as_ref().is_err_and(|error| error.was_forbidden) {
            return Err(NotSent);
        }
        let (http_status, outcome) = match exchange {
            Ok((status, body)) => (Some(status.as_u16()), call.read(status.as_u16(), &body)),
            Err(error) => (error.status, Err(Failure::new(Class::Retry, None, &error.info))),
        };
        if let Some(domain) = domain {
            // Answers of the service have a code. Anything else comes from something in between, a 502 for example.
            self.note_answered(domain, outcome.as_ref().err().is_none_or(|failure| failure.code.is_some()));
        }
        let secrets = user_sig.iter().chain(self.signer.secret_key());
        let outcome = outcome.map_err(|failure| secrets.fold(failure, Failure::without));
        let end = clock::uptime();
        let (called_at, ended_at) = self.clock.interval(written.get().copied().unwrap_or(start), end);
        let latency = end.saturating_duration_since(start);
        Ok(Called { called_at, ended_at, latency, http_status, outcome })
    }

    /// Replaces the signature by a new one. False if the credential is a ready signature.
    pub fn renew_signature(&self) -> bool {
        self.signer.renew()
    }

    async fn exchange<F: Fn() -> bool + Send + Sync + Unpin + 'static>(
        &self,
        url: Url,
        body: GuardedBody<F>,
        max_bytes: usize,
    ) -> Result<(StatusCode, Vec<u8>), Unanswered> {
        let mut response =
            self.http.post(url).header(CONTENT_TYPE, "application/json").body(Body::wrap(body)).send().await?;
        let status = response.status();
        let unanswered = |info: String| Unanswered { status: Some(status.as_u16()), ..Unanswered::because(info) };
        let length = response.content_length().map_or(4_096, |length| usize::try_from(length).unwrap_or(usize::MAX));
        let mut body = Vec::with_capacity(length.min(max_bytes));
        while let Some(chunk) = response.chunk().await.map_err(|error| unanswered(describe(error)))? {
            if body.len() + chunk.len() > max_bytes {
                return Err(unanswered(format!("the answer is larger than {max_bytes} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, body))
    }

    /// The request of an attempt and its URL. The error says why it can't be made.
    fn prepare<C: Call>(&self, call: &C, user_sig: &SecretString) -> Result<(DomainIndex, Url, Vec<u8>), String> {
        let content = call.request().map_err(|error| format!("writing the request failed: {error}"))?;
        let (domain, url) = self.url(C::API, user_sig)?;
        Ok((domain, url, content))
    }

    fn url(&self, api: Api, user_sig: &SecretString) -> Result<(DomainIndex, Url), String> {
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut domains = self.domains();
        let (domain, base) = domains.base(Instant::now());
        if signed.as_ref().is_none_or(|signed| !signed.is_for(base, user_sig)) {
            *signed = Some(SignedUrl::new(base, self.sdk_app_id, &self.identifier, user_sig.clone())?);
        }
        let mut url = signed.as_ref().map(|signed| signed.url.clone()).ok_or("no URL")?;
        url.set_path(&format!("/v4/group_open_http_svc/{}", api.name()));
        url.query_pairs_mut().append_pair("random", &fastrand::u32(..).to_string());
        Ok((domain, url))
    }

    fn note_answered(&self, domain: DomainIndex, answered: bool) {
        if self.domains().note(domain, answered, Instant::now()) {
            tracing::warn!("Tencent Chat does not answer at this domain: switching to the other one");
        }
    }

    fn domains(&self) -> MutexGuard<'_, Domains> {
        self.domains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// There was no complete answer.
struct Unanswered {
    status: Option<u16>,
    info: String,
    /// The request was not sent because it was no longer allowed.
    was_forbidden: bool,
}

impl Unanswered {
    fn because(info: String) -> Self {
        Self { status: None, info, was_forbidden: false }
    }
}

impl From<reqwest::Error> for Unanswered {
    fn from(error: reqwest::Error) -> Self {
        Self { was_forbidden: NotSent::has_caused(&error), ..Self::because(describe(error)) }
    }
}

/// The error and its causes on one line, without the URL.
fn describe(error: reqwest::Error) -> String {
    let kind = match &error {
        error if error.is_timeout() => "no answer within the timeout",
        error if error.is_connect() => "connection failed",
        _ => "connection broken",
    };
    let error = error.without_url();
    let mut text = format!("{kind}: {error}");
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
