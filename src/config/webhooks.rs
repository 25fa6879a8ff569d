//! `[webhooks]`: where Tencent Chat's webhooks arrive, and how they are verified.

use std::{net::SocketAddr, path::PathBuf};

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::{chat::is_loopback, http::EXAMPLE_TOKEN, section::Section};

/// The port in the remedy for an invalid address.
const PORT: u16 = 9465;

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

/// `page` is the address of the page, which must be a different one.
pub(super) fn read(section: &mut Section<'_>, page: Option<SocketAddr>) -> Webhooks {
    let listen = section.address("listen", PORT, false);
    let path = section.secret("path").unwrap_or_else(|| "/".into());
    check_path(&path, section);
    let token = section.secret("token");
    check_token("token", token.as_ref(), section);
    let previous = section.secret("previous_token");
    check_token("previous_token", previous.as_ref(), section);
    let tls = tls(section);
    let forward = forward(section);
    let Some(listen) = listen else { return Webhooks::default() };
    if token.is_none() {
        let remedy = "is missing: set it (or webhooks.token) to the token in the Chat console, without which \
            anybody could send webhooks";
        section.refuse_silently("token_file", remedy);
    }
    if !listen.ip().is_loopback() && tls.is_none() {
        let remedy = "can be reached from other machines without encryption: use a loopback address behind a TLS \
            proxy, or set webhooks.tls_certificate_file and webhooks.tls_key_file";
        section.refuse("listen", &listen.to_string(), remedy);
    }
    // Port 0 is any free port.
    if listen.port() != 0 && page == Some(listen) {
        let remedy = "is the address of http.listen: use another, since the page is not for the internet";
        section.refuse("listen", &listen.to_string(), remedy);
    }
    let tokens = token.into_iter().chain(previous).collect();
    Webhooks { listener: Some(Listener { listen, path, tokens, tls, forward }) }
}

/// Refuses a path that no request can have, or that is public.
fn check_path(path: &SecretString, section: &mut Section<'_>) {
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
    section.refuse_silently("path", remedy);
}

fn check_token(key: &str, token: Option<&SecretString>, section: &mut Section<'_>) {
    let Some(token) = token.map(ExposeSecret::expose_secret) else { return };
    if token == EXAMPLE_TOKEN {
        let remedy =
            "is the example from the reference file, which is public: generate one with `openssl rand -hex 16`";
        section.refuse_silently(key, remedy);
    } else if token.chars().count() < SHORTEST_TOKEN {
        let remedy = format!("is shorter than {SHORTEST_TOKEN} characters: generate one with `openssl rand -hex 16`");
        section.refuse_silently(key, remedy);
    }
}

/// A certificate and its key are only useful together.
fn tls(section: &mut Section<'_>) -> Option<TlsFiles> {
    const CERTIFICATE: &str = "tls_certificate_file";
    const KEY: &str = "tls_key_file";
    let missing = match (section.path(CERTIFICATE), section.path(KEY)) {
        (None, None) => return None,
        (Some(certificate), Some(key)) => return Some(TlsFiles { certificate, key }),
        (Some(_), None) => KEY,
        (None, Some(_)) => CERTIFICATE,
    };
    section.refuse_silently(missing, "is missing: set both files, or none if a proxy terminates TLS");
    None
}

fn forward(section: &mut Section<'_>) -> Option<Url> {
    const KEY: &str = "forward";
    let text = section.text(KEY)?;
    if text.contains('@') {
        section.refuse_silently(KEY, "contains credentials: a webhook's signature is passed on instead");
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
    section.refuse(KEY, &text, remedy);
    None
}
