//! `[http]`: where the page, health, readiness and metrics are served, and their token.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{
    problem::Problems,
    secret::{self, SecretText},
};

/// Minimum length of a token, in characters. A shorter one can be guessed over the network.
const SHORTEST_TOKEN: usize = 16;

/// The token in `config/receiptd.toml`, which is public.
pub(super) const EXAMPLE_TOKEN: &str = "replace-with-random-characters";

/// Where the page, health, readiness and metrics are served, and their token.
#[derive(Debug, Clone)]
pub struct Http {
    /// The address to listen on; `None` serves nothing.
    pub listen: Option<SocketAddr>,
    /// The token required by every endpoint except `/healthz`; if `None`, none is required.
    pub token: Option<SecretString>,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464))), token: None }
    }
}

/// The keys of the section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// An address with its port, or `off`.
    listen: Option<String>,
    /// The required token.
    token: Option<SecretText>,
    /// File with the token.
    token_file: Option<PathBuf>,
}

impl Keys {
    pub fn validate(self, problems: &mut Problems) -> Http {
        let remedy = "use an IP address with a port, such as \"127.0.0.1:9464\" or \"[::1]:9464\", or \"off\"";
        let listen = problems.parsed("http.listen", self.listen, Http::default().listen, remedy, |text| match text {
            "off" => Some(None),
            address => address.parse().ok().map(Some),
        });
        let token = secret::take("http.token", self.token, self.token_file.as_deref(), problems);
        if token.as_ref().is_some_and(|token| token.expose_secret().chars().count() < SHORTEST_TOKEN) {
            let remedy = format!(
                "is shorter than {SHORTEST_TOKEN} characters: generate one with `openssl rand -hex \
                16`"
            );
            problems.refuse_silently("http.token", &remedy);
        }
        if token.as_ref().is_some_and(|token| token.expose_secret() == EXAMPLE_TOKEN) {
            let remedy =
                "is the example from the reference file, which is public: generate one with `openssl rand -hex 16`";
            problems.refuse_silently("http.token", remedy);
        }
        if let (Some(listen), None) = (listen, &token)
            && !listen.ip().is_loopback()
        {
            let remedy = "can be reached from other machines: set http.token_file (or http.token) to require a token";
            problems.refuse("http.listen", &listen.to_string(), remedy);
        }
        Http { listen, token }
    }
}
