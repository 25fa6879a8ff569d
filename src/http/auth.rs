//! HTTP authentication. Programs send the token as a bearer token; browsers send it as the password, with any user
//! name. Without a token, everybody who asks for this machine by an IP address or as localhost is admitted.
//!
//! A foreign page whose name was pointed to this machine (DNS rebinding) uses that name, and is refused.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, StatusCode, Uri,
        header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::http::lanes::Seat;

/// The token, which a reload may change.
#[derive(Debug, Clone, Default)]
pub struct Token(Arc<RwLock<Option<SecretString>>>);

impl Token {
    /// Requires this token from now on; `None` requires none.
    pub fn change(&self, token: Option<SecretString>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    fn judge(&self, uri: &Uri, headers: &HeaderMap) -> Verdict {
        match self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            None if is_meant(uri, headers) => Verdict::Admit,
            None => Verdict::RefuseName,
            Some(token) if given(headers).is_some_and(|given| is_same(token.expose_secret(), &given)) => Verdict::Trust,
            Some(_) => Verdict::AskForToken,
        }
    }
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Admit,
    /// It has the token.
    Trust,
    AskForToken,
    /// It asks for another host, or for one that isn't recognizably this machine.
    RefuseName,
}

/// Whether the request asks for this machine, by an IP address or as localhost, in every place that names a host.
/// Browsers always name it.
fn is_meant(uri: &Uri, headers: &HeaderMap) -> bool {
    let hosts = headers.get_all(HOST).iter().map(|host| Authority::try_from(host.as_bytes()).ok());
    hosts.chain(uri.authority().cloned().map(Some)).all(|authority| authority.is_some_and(|named| is_here(&named)))
}

fn is_here(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// The token in the header.
fn given(headers: &HeaderMap) -> Option<String> {
    let (scheme, value) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    let account = scheme.eq_ignore_ascii_case("basic").then(|| BASE64_STANDARD.decode(value.trim()).ok())??;
    Some(String::from_utf8(account).ok()?.split_once(':')?.1.to_owned())
}

/// Takes the same time for any two texts of the same length, so it reveals neither how much of a guess is right nor
/// the length of the token.
fn is_same(token: &str, given: &str) -> bool {
    Sha256::digest(token).ct_eq(&Sha256::digest(given)).into()
}

/// Admits a request, asks for the token, or refuses it.
pub(crate) async fn admit(State(token): State<Token>, request: Request, next: Next) -> Response {
    match token.judge(request.uri(), request.headers()) {
        Verdict::Admit => next.run(request).await,
        Verdict::Trust => {
            if let Some(seat) = request.extensions().get::<Arc<Seat>>() {
                seat.trust();
            }
            next.run(request).await
        }
        Verdict::AskForToken => {
            let realm = "Basic realm=\"receiptd: the token of http.token as password\", charset=\"UTF-8\"";
            let text = "http.token is required: as a bearer token, or as the password\n";
            (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, realm)], text).into_response()
        }
        Verdict::RefuseName => {
            let text = "without http.token, use an IP address or localhost\n";
            (StatusCode::MISDIRECTED_REQUEST, text).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_accepted_only_as_bearer_token_or_password() {
        let token = Token::default();
        let admits = |header: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, header.parse().unwrap());
            matches!(token.judge(&Uri::default(), &headers), Verdict::Admit | Verdict::Trust)
        };
        assert!(admits("Bearer whatever"), "none is asked for");
        token.change(Some("open: sesame".into()));
        assert_eq!(token.judge(&Uri::default(), &HeaderMap::new()), Verdict::AskForToken);
        let basic = |account: &str| format!("Basic {}", BASE64_STANDARD.encode(account));
        for (header, is_admitted) in [
            ("Bearer open: sesame".to_owned(), true),
            ("bearer open: sesame".to_owned(), true),
            (basic("anybody:open: sesame"), true),
            (basic(":open: sesame"), true),
            ("Bearer open".to_owned(), false),
            ("Bearer ".to_owned(), false),
            (basic("open: sesame"), false),
            ("Basic !".to_owned(), false),
            ("open: sesame".to_owned(), false),
        ] {
            assert_eq!(admits(&header), is_admitted, "{header}");
        }
    }

    #[test]
    fn without_a_token_only_addresses_and_localhost_are_served() {
        let judge = |token: &Token, host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            token.judge(&Uri::default(), &headers)
        };
        let token = Token::default();
        for host in ["127.0.0.1", "127.0.0.1:9464", "[::1]:9464", "localhost", "LocalHost:9464", "192.0.2.7"] {
            assert_eq!(judge(&token, host), Verdict::Admit, "{host}");
        }
        for host in
            ["evil.example", "evil.example:9464", "127.0.0.1.evil.example", "localhost.evil.example", "", "@", "[::1"]
        {
            assert_eq!(judge(&token, host), Verdict::RefuseName, "{host}");
        }
        assert_eq!(token.judge(&Uri::default(), &HeaderMap::new()), Verdict::Admit);
        token.change(Some("open: sesame".into()));
        assert_eq!(judge(&token, "evil.example"), Verdict::AskForToken, "who has the token may call it by any name");
    }

    #[test]
    fn every_name_that_a_request_gives_has_to_be_this_machine() {
        let judge = |uri: &str, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            hosts.iter().for_each(|host| _ = headers.append(HOST, host.parse().unwrap()));
            Token::default().judge(&uri.parse().unwrap(), &headers)
        };
        for (uri, hosts) in [
            ("http://evil.example/", ["127.0.0.1"].as_slice()),
            ("http://127.0.0.1/", &["evil.example"]),
            ("/", &["127.0.0.1", "evil.example"]),
        ] {
            assert_eq!(judge(uri, hosts), Verdict::RefuseName, "{uri} {hosts:?}");
        }
        assert_eq!(judge("http://[::1]:9464/", &["[::1]:9464"]), Verdict::Admit);
        assert_eq!(judge("/", &[]), Verdict::Admit, "HTTP/1.0 names no host");
    }
}
