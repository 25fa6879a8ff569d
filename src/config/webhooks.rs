//! `[webhooks]`: where Tencent Chat's webhooks arrive, and how they are verified.

use std::{net::SocketAddr, path::PathBuf};

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{
    chat::is_loopback,
    http::EXAMPLE_TOKEN,
    problem::Problems,
    secret::{self, SecretText},
};

/// Minimum length of a token, in characters: anyone who reaches the address can have signatures checked.
const SHORTEST_TOKEN: usize = 32;

/// The listener for webhooks, and the address that they are passed on to.
#[derive(Debug, Clone, Default)]
pub struct Webhooks {
    /// The listener; `None` if there is none.
    pub listener: Option<Listener>,
}

/// The listener for webhooks.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its address.
    pub listen: SocketAddr,
    /// The path of its URL, which is secret.
    pub path: SecretString,
    /// The tokens that sign webhooks: the current one, and the previous one while it is replaced.
    pub tokens: Vec<SecretString>,
    /// Its certificate and key; `None` if a proxy terminates TLS.
    pub tls: Option<TlsFiles>,
    /// Where each verified webhook is passed on.
    pub forward: Option<Url>,
}

/// The files of a certificate, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// The keys of the section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// An address with its port, or `off`.
    listen: Option<String>,
    /// The path of the URL.
    path: Option<SecretText>,
    /// File with the path.
    path_file: Option<PathBuf>,
    /// The token that signs webhooks.
    token: Option<SecretText>,
    /// File with the token.
    token_file: Option<PathBuf>,
    /// The previous token, while it is replaced in the console.
    previous_token: Option<SecretText>,
    /// File with the previous token.
    previous_token_file: Option<PathBuf>,
    /// File with the certificate chain.
    tls_certificate_file: Option<PathBuf>,
    /// File with the certificate's key.
    tls_key_file: Option<PathBuf>,
    /// The URL of another handler.
    forward: Option<String>,
}

impl Keys {
    /// `page` is the address of the page, which must be a different one.
    pub fn validate(self, page: Option<SocketAddr>, problems: &mut Problems) -> Webhooks {
        let remedy = "use an IP address with a port, such as \"127.0.0.1:9465\" or \"[::1]:9465\", or \"off\"";
        let none: Option<SocketAddr> = None;
        let listen = problems.parsed("webhooks.listen", self.listen, none, remedy, |text| match text {
            "off" => Some(None),
            address => address.parse().ok().map(Some),
        });
        let path = secret::take("webhooks.path", self.path, self.path_file.as_deref(), problems);
        let path = path.unwrap_or_else(|| "/".into());
        check_path(&path, problems);
        let token = secret::take("webhooks.token", self.token, self.token_file.as_deref(), problems);
        check_token("webhooks.token", token.as_ref(), problems);
        let file = self.previous_token_file.as_deref();
        let previous = secret::take("webhooks.previous_token", self.previous_token, file, problems);
        check_token("webhooks.previous_token", previous.as_ref(), problems);
        let tls = tls(self.tls_certificate_file, self.tls_key_file, problems);
        let forward = forward(self.forward, problems);
        let Some(listen) = listen else { return Webhooks::default() };
        if token.is_none() {
            let remedy = "is missing: set it (or webhooks.token) to the token in the Chat console, without which \
                anybody could send webhooks";
            problems.refuse_silently("webhooks.token_file", remedy);
        }
        if !listen.ip().is_loopback() && tls.is_none() {
            let remedy = "can be reached from other machines without encryption: use a loopback address behind a TLS \
                proxy, or set webhooks.tls_certificate_file and webhooks.tls_key_file";
            problems.refuse("webhooks.listen", &listen.to_string(), remedy);
        }
        // Port 0 is any free port.
        if listen.port() != 0 && page == Some(listen) {
            let remedy = "is the address of http.listen: use another, since the page is not for the internet";
            problems.refuse("webhooks.listen", &listen.to_string(), remedy);
        }
        let tokens = token.into_iter().chain(previous).collect();
        Webhooks { listener: Some(Listener { listen, path, tokens, tls, forward }) }
    }
}

/// Refuses a path that no request can have, or that is public.
fn check_path(path: &SecretString, problems: &mut Problems) {
    let path = path.expose_secret();
    // Tencent refuses URLs with `?`, `&`, `$` or `!`; characters that would be encoded in a URL could not be compared.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    let remedy = if !path.starts_with('/') {
        "is no path: begin it with /"
    } else if path.strip_prefix('/') == Some(EXAMPLE_TOKEN) {
        "is the example from the reference file, which is public: generate one with `openssl rand -hex 16`"
    } else if !path.bytes().all(plain) {
        "contains something other than letters, digits, and / - _ . ~: use only these"
    } else {
        return;
    };
    problems.refuse_silently("webhooks.path", remedy);
}

fn check_token(key: &str, token: Option<&SecretString>, problems: &mut Problems) {
    let Some(token) = token.map(ExposeSecret::expose_secret) else { return };
    if token == EXAMPLE_TOKEN {
        let remedy =
            "is the example from the reference file, which is public: generate one with `openssl rand -hex 16`";
        problems.refuse_silently(key, remedy);
    } else if token.chars().count() < SHORTEST_TOKEN {
        let remedy = format!("is shorter than {SHORTEST_TOKEN} characters: generate one with `openssl rand -hex 16`");
        problems.refuse_silently(key, remedy);
    }
}

/// A certificate and its key are only useful together.
fn tls(certificate: Option<PathBuf>, key: Option<PathBuf>, problems: &mut Problems) -> Option<TlsFiles> {
    let missing = match (certificate, key) {
        (None, None) => return None,
        (Some(certificate), Some(key)) => return Some(TlsFiles { certificate, key }),
        (Some(_), None) => "webhooks.tls_key_file",
        (None, Some(_)) => "webhooks.tls_certificate_file",
    };
    problems.refuse_silently(missing, "is missing: set both files, or none if a proxy terminates TLS");
    None
}

fn forward(text: Option<String>, problems: &mut Problems) -> Option<Url> {
    const KEY: &str = "webhooks.forward";
    let text = text?;
    if text.contains('@') {
        problems.refuse_silently(KEY, "contains credentials: a webhook's signature is passed on instead");
        return None;
    }
    let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let remedy = match &url {
        None => "use an http or https URL, such as http://127.0.0.1:8080/tencent",
        Some(url) if url.query().is_some() || url.fragment().is_some() => {
            "has a query or fragment: the query of each webhook is passed on"
        }
        Some(url) if url.scheme() == "http" && !is_loopback(url) => {
            "would pass webhooks on over the network unencrypted: use https, or a loopback address"
        }
        Some(_) => return url,
    };
    problems.refuse(KEY, &text, remedy);
    None
}
