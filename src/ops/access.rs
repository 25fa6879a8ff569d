//! Who may look: everybody where no token is set, else who has it. As a bearer token, for programs, or as the password of
//! whatever user, which browsers ask for.

use std::sync::{Arc, PoisonError, RwLock};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, StatusCode,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// The token, which a reload may change.
#[derive(Debug, Clone, Default)]
pub struct Token(Arc<RwLock<Option<SecretString>>>);

impl Token {
    /// Asks for this one from now on, or for none.
    pub fn change(&self, token: Option<SecretString>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        match self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            None => true,
            Some(token) => given(headers).is_some_and(|given| is_same(token.expose_secret(), &given)),
        }
    }
}

/// What the header gives as the token.
fn given(headers: &HeaderMap) -> Option<String> {
    let (scheme, value) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    let account = scheme.eq_ignore_ascii_case("basic").then(|| BASE64_STANDARD.decode(value.trim()).ok())??;
    Some(String::from_utf8(account).ok()?.split_once(':')?.1.to_owned())
}

/// Compares digests: how long that takes tells nothing of the token.
fn is_same(token: &str, given: &str) -> bool {
    Sha256::digest(token) == Sha256::digest(given)
}

/// Lets a request through, or asks for the token.
pub(super) async fn admit(State(token): State<Token>, request: Request, next: Next) -> Response {
    if token.admits(request.headers()) {
        return next.run(request).await;
    }
    let ask = [(WWW_AUTHENTICATE, "Basic realm=\"receiptd: the token of http.token as password\", charset=\"UTF-8\"")];
    (StatusCode::UNAUTHORIZED, ask, "http.token is wanted: as a bearer token, or as the password\n").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_taken_as_bearer_and_as_a_password_and_nothing_else_is() {
        let token = Token::default();
        let admits = |header: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, header.parse().unwrap());
            token.admits(&headers)
        };
        assert!(token.admits(&HeaderMap::new()) && admits("Bearer whatever"), "none is asked for");
        token.change(Some("open: sesame".into()));
        assert!(!token.admits(&HeaderMap::new()));
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
}
