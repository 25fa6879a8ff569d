//! UserSig, the signature of an admin account (TLSSigAPIv2), and its renewal.
//!
//! The format is not documented in prose. It was derived from the public implementations, and is tested with vectors
//! that they produced (`tests/data/usersig_vectors.json`).

use std::{
    fmt,
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::TimeDelta;
use flate2::{Compression, write::ZlibEncoder};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use crate::domain::{SdkAppId, Timestamp};

/// Validity of signatures that receiptd makes for itself.
pub const VALIDITY: TimeDelta = TimeDelta::days(1);

/// The key or signature of the app's calls.
#[derive(Debug, Clone)]
pub enum Credential {
    /// The app's secret key: signatures are made when they are needed.
    SecretKey(SecretString),
    /// A ready signature, which can't be renewed.
    UserSig(SecretString),
}

/// The example key in `config/receiptd.toml`.
const EXAMPLE: &str = "replace-with-the-secret-key-of-your-app";

impl Credential {
    /// Whether the secret key is the example from the reference file, with which every call fails.
    pub fn is_example(&self) -> bool {
        matches!(self, Self::SecretKey(key) if key.expose_secret() == EXAMPLE)
    }

    /// Whether the secret key differs in form from those in the console: 64 hexadecimal digits.
    pub fn has_odd_form(&self) -> bool {
        let is_usual = |key: &str| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        matches!(self, Self::SecretKey(key) if !is_usual(key.expose_secret()))
    }
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SecretKey(_) => "signatures made from the secret key",
            Self::UserSig(_) => "a ready signature, until it expires",
        })
    }
}

/// Makes a signature of `identifier`, valid for `validity` from `issued_at`.
///
/// # Errors
/// Never in practice: only compression into memory could fail.
pub fn sign(
    sdk_app_id: SdkAppId,
    identifier: &str,
    secret_key: &SecretString,
    issued_at: Timestamp,
    validity: TimeDelta,
) -> io::Result<SecretString> {
    let (time, expire) = (issued_at.timestamp(), validity.num_seconds());
    let content =
        format!("TLS.identifier:{identifier}\nTLS.sdkappid:{sdk_app_id}\nTLS.time:{time}\nTLS.expire:{expire}\n");
    let mut mac = Hmac::<Sha256>::new_from_slice(secret_key.expose_secret().as_bytes()).map_err(io::Error::other)?;
    mac.update(content.as_bytes());
    let document = serde_json::json!({
        "TLS.ver": "2.0",
        "TLS.identifier": identifier,
        "TLS.sdkappid": sdk_app_id.get(),
        "TLS.expire": expire,
        "TLS.time": time,
        "TLS.sig": STANDARD.encode(mac.finalize().into_bytes()),
    });
    let mut compressed = ZlibEncoder::new(Vec::new(), Compression::default());
    compressed.write_all(document.to_string().as_bytes())?;
    let encoded = STANDARD.encode(compressed.finish()?);
    Ok(encoded.replace('+', "*").replace('/', "-").replace('=', "_").into())
}

/// Keeps a valid signature, and renews it well before its expiry.
#[derive(Debug)]
pub struct Signer {
    sdk_app_id: SdkAppId,
    identifier: String,
    credential: Credential,
    current: Mutex<Option<Signature>>,
}

#[derive(Debug, Clone)]
struct Signature {
    user_sig: SecretString,
    issued_at: Timestamp,
}

impl Signer {
    /// A signer for one admin account of an app.
    pub fn new(sdk_app_id: SdkAppId, identifier: String, credential: Credential) -> Self {
        Self { sdk_app_id, identifier, credential, current: Mutex::new(None) }
    }

    /// A signature to use at `now`: the current one for half of its validity, then a new one.
    ///
    /// # Errors
    /// See [`sign`].
    pub fn user_sig(&self, now: Timestamp) -> io::Result<SecretString> {
        let secret_key = match &self.credential {
            Credential::UserSig(user_sig) => return Ok(user_sig.clone()),
            Credential::SecretKey(secret_key) => secret_key,
        };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // The absolute difference, since after a clock step backwards the signature would seem to come from the
        // future.
        if let Some(signature) = current.as_ref().filter(|held| (now - held.issued_at).abs() < VALIDITY / 2) {
            return Ok(signature.user_sig.clone());
        }
        let user_sig = sign(self.sdk_app_id, &self.identifier, secret_key, now, VALIDITY)?;
        *current = Some(Signature { user_sig: user_sig.clone(), issued_at: now });
        Ok(user_sig)
    }

    /// The secret key, if there is one.
    pub(super) fn secret_key(&self) -> Option<&SecretString> {
        match &self.credential {
            Credential::SecretKey(secret_key) => Some(secret_key),
            Credential::UserSig(_) => None,
        }
    }

    /// Discards the current signature, so that the next call gets a new one. False if none can be made.
    pub fn renew(&self) -> bool {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).take();
        matches!(self.credential, Credential::SecretKey(_))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use serde_json::Value;

    use super::*;

    fn decode(user_sig: &SecretString) -> Value {
        let base64 = user_sig.expose_secret().replace('*', "+").replace('-', "/").replace('_', "=");
        let mut json = String::new();
        let compressed = STANDARD.decode(base64).unwrap();
        flate2::read::ZlibDecoder::new(compressed.as_slice()).read_to_string(&mut json).unwrap();
        serde_json::from_str(&json).unwrap()
    }

    fn app(id: i64) -> SdkAppId {
        SdkAppId::try_from(id).unwrap()
    }

    #[test]
    fn signatures_equal_those_of_the_reference_implementations() {
        let vectors: Value = serde_json::from_str(include_str!("../../tests/data/usersig_vectors.json")).unwrap();
        let vectors = vectors["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 6);
        for vector in vectors {
            let user_sig = sign(
                app(vector["sdkappid"].as_i64().unwrap()),
                vector["userid"].as_str().unwrap(),
                &vector["key"].as_str().unwrap().into(),
                Timestamp::from_timestamp(vector["time"].as_i64().unwrap(), 0).unwrap(),
                TimeDelta::seconds(vector["expire"].as_i64().unwrap()),
            );
            assert_eq!(decode(&user_sig.unwrap()), vector["decoded"], "{}", vector["note"]);
        }
    }

    fn issued_at(user_sig: &SecretString) -> i64 {
        decode(user_sig)["TLS.time"].as_i64().unwrap()
    }

    #[test]
    fn a_signature_is_renewed_at_half_of_its_life() {
        let signer = Signer::new(app(1), "admin".into(), Credential::SecretKey("key".into()));
        let start: Timestamp = "2026-11-23T00:00:00Z".parse().unwrap();
        let issued_for = |now| issued_at(&signer.user_sig(now).unwrap());
        assert_eq!(issued_for(start), start.timestamp());
        assert_eq!(issued_for(start + TimeDelta::hours(11)), start.timestamp());
        let half = start + VALIDITY / 2;
        assert_eq!(issued_for(half), half.timestamp());
        assert_eq!(
            issued_for(half - TimeDelta::days(3)),
            (half - TimeDelta::days(3)).timestamp(),
            "clock stepped back"
        );
    }

    #[test]
    fn a_ready_signature_is_used_as_it_is_and_cannot_be_renewed() {
        let signer = Signer::new(app(1), "admin".into(), Credential::UserSig("ready".into()));
        assert!(!signer.renew());
        assert_eq!(signer.user_sig(Timestamp::MIN_UTC).unwrap().expose_secret(), "ready");
    }

    #[test]
    fn a_renewed_signature_is_made_anew() {
        let signer = Signer::new(app(1), "admin".into(), Credential::SecretKey("key".into()));
        let start: Timestamp = "2026-11-23T00:00:00Z".parse().unwrap();
        signer.user_sig(start).unwrap();
        assert!(signer.renew());
        let later = start + TimeDelta::minutes(1);
        assert_eq!(issued_at(&signer.user_sig(later).unwrap()), later.timestamp());
    }

    #[test]
    fn neither_key_nor_signature_shows_in_debug_output() {
        let signer = Signer::new(app(1), "admin".into(), Credential::SecretKey("canary-key".into()));
        let user_sig = signer.user_sig(Timestamp::UNIX_EPOCH).unwrap();
        let debug = format!("{signer:?} {user_sig:?}");
        assert!(!debug.contains("canary-key") && !debug.contains(user_sig.expose_secret()), "{debug}");
    }
}
