//! `[http]`: where the page, health, readiness and metrics are served, and who may look.

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

/// The token in `config/receiptd.toml`. Everybody knows it.
const EXAMPLE_TOKEN: &str = "replace-with-random-characters";

/// Where the page, health, readiness and metrics are served, and who may look.
#[derive(Debug, Clone)]
pub struct Http {
    /// The address to listen at; `None` serves nothing.
    pub listen: Option<SocketAddr>,
    /// What whoever looks has to give; `None` asks for nothing.
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
    /// What whoever looks has to give.
    token: Option<SecretText>,
    /// A file that holds it.
    token_file: Option<PathBuf>,
}

impl Keys {
    pub fn validate(self, problems: &mut Problems) -> Http {
        let remedy = "give an IP address with a port, as in \"127.0.0.1:9464\" or \"[::1]:9464\", or \"off\"";
        let listen = problems.parsed("http.listen", self.listen, Http::default().listen, remedy, |text| match text {
            "off" => Some(None),
            address => address.parse().ok().map(Some),
        });
        let token = secret::take("http.token", self.token, self.token_file.as_deref(), problems);
        if token.as_ref().is_some_and(|token| token.expose_secret().chars().count() < SHORTEST_TOKEN) {
            let remedy = format!("is shorter than {SHORTEST_TOKEN} characters: make one with `openssl rand -hex 16`");
            problems.refuse_silently("http.token", &remedy);
        }
        if token.as_ref().is_some_and(|token| token.expose_secret() == EXAMPLE_TOKEN) {
            let remedy =
                "is the example of the reference file, which everybody knows: make one with `openssl rand -hex 16`";
            problems.refuse_silently("http.token", remedy);
        }
        if let (Some(listen), None) = (listen, &token)
            && !listen.ip().is_loopback()
        {
            let remedy =
                "is reached from other machines: give http.token_file (or http.token), which whoever looks has to have";
            problems.refuse("http.listen", &listen.to_string(), remedy);
        }
        Http { listen, token }
    }
}
