//! `[http]`: where the page, health, readiness and metrics are served, and their token.

use std::net::SocketAddr;

use secrecy::{ExposeSecret, SecretString};

use super::section::Section;

/// The default port, on loopback.
const PORT: u16 = 9464;

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

pub(super) fn read(section: &mut Section<'_>) -> Http {
    let listen = section.address("listen", PORT, true);
    let token = section.secret("token");
    if token.as_ref().is_some_and(|token| token.expose_secret().chars().count() < SHORTEST_TOKEN) {
        let remedy = format!("is shorter than {SHORTEST_TOKEN} characters: generate one with `openssl rand -hex 16`");
        section.refuse_silently("token", remedy);
    }
    if token.as_ref().is_some_and(|token| token.expose_secret() == EXAMPLE_TOKEN) {
        let remedy =
            "is the example from the reference file, which is public: generate one with `openssl rand -hex 16`";
        section.refuse_silently("token", remedy);
    }
    if let (Some(listen), None) = (listen, &token)
        && !listen.ip().is_loopback()
    {
        let remedy = "can be reached from other machines: set http.token_file (or http.token) to require a token";
        section.refuse("listen", &listen.to_string(), remedy);
    }
    Http { listen, token }
}
