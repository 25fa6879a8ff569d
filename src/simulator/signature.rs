//! Verifies a UserSig (TLSSigAPIv2) as the service does: decode it, compare it with the request, check the HMAC and
//! the expiry. Independent of the signing code, so that no mistake is repeated.

use std::io::Read;

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::bufread::ZlibDecoder;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::Sha256;

use super::refusal::Refusal;
use crate::domain::{SdkAppId, Timestamp};

/// Maximum size after inflating. A signature's JSON takes about 200 bytes.
const MAX_INFLATED_BYTES: u64 = 4096;

/// The app's admin account, and the key that signs for it.
#[derive(Debug)]
pub(super) struct Credentials {
    pub sdk_app_id: SdkAppId,
    pub identifier: String,
    pub secret_key: SecretString,
}

#[derive(Deserialize)]
struct Signature {
    #[serde(rename = "TLS.ver")]
    version: String,
    #[serde(rename = "TLS.identifier")]
    identifier: String,
    #[serde(rename = "TLS.sdkappid")]
    sdk_app_id: u32,
    #[serde(rename = "TLS.expire")]
    expire_seconds: i64,
    #[serde(rename = "TLS.time")]
    signed_at_seconds: i64,
    #[serde(rename = "TLS.sig")]
    mac: String,
}

/// Checks a UserSig against the app's credentials and the clock.
pub(super) fn verify(user_sig: &str, credentials: &Credentials, now: Timestamp) -> Result<(), Refusal> {
    if user_sig.is_empty() {
        return Err(Refusal::UserSigMissing);
    }
    let signature = decode(user_sig)?;
    if signature.identifier != credentials.identifier {
        return Err(Refusal::UserSigOtherIdentifier);
    }
    if signature.sdk_app_id != credentials.sdk_app_id.get() {
        return Err(Refusal::UserSigOtherApp);
    }
    verify_mac(&signature, &credentials.secret_key)?;
    if now.timestamp() >= signature.signed_at_seconds.saturating_add(signature.expire_seconds) {
        return Err(Refusal::UserSigExpired);
    }
    Ok(())
}

fn decode(user_sig: &str) -> Result<Signature, Refusal> {
    let refuse = |step| Refusal::UserSigUndecodable(step);
    let compressed = STANDARD.decode(standard_alphabet(user_sig)?).map_err(|_| refuse("not base64"))?;
    let signature: Signature = serde_json::from_slice(&inflate(&compressed)?).map_err(|_| refuse("not its JSON"))?;
    if signature.version != "2.0" {
        return Err(refuse("TLS.ver is not 2.0"));
    }
    Ok(signature)
}

fn standard_alphabet(user_sig: &str) -> Result<String, Refusal> {
    let undo = |character| match character {
        '*' => Some('+'),
        '-' => Some('/'),
        '_' => Some('='),
        _ if char::is_ascii_alphanumeric(&character) => Some(character),
        _ => None,
    };
    user_sig.chars().map(undo).collect::<Option<_>>().ok_or(Refusal::UserSigUndecodable("not the URL alphabet"))
}

fn inflate(compressed: &[u8]) -> Result<Vec<u8>, Refusal> {
    let refuse = |_| Refusal::UserSigUndecodable("not zlib");
    let mut json = Vec::new();
    let mut decoder = ZlibDecoder::new(compressed);
    let length = decoder.by_ref().take(MAX_INFLATED_BYTES).read_to_end(&mut json).map_err(refuse)?;
    if length as u64 == MAX_INFLATED_BYTES {
        return Err(Refusal::UserSigUndecodable("larger than any signature"));
    }
    if decoder.total_in() != compressed.len() as u64 {
        return Err(Refusal::UserSigUndecodable("something follows the zlib stream"));
    }
    Ok(json)
}

fn verify_mac(signature: &Signature, secret_key: &SecretString) -> Result<(), Refusal> {
    let Signature { identifier, sdk_app_id, signed_at_seconds, expire_seconds, .. } = signature;
    let content = format!(
        "TLS.identifier:{identifier}\nTLS.sdkappid:{sdk_app_id}\nTLS.time:{signed_at_seconds}\nTLS.expire:{expire_seconds}\n"
    );
    let claimed = STANDARD.decode(&signature.mac).map_err(|_| Refusal::UserSigUndecodable("TLS.sig is not base64"))?;
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret_key.expose_secret().as_bytes()).map_err(|_| Refusal::UserSigWrongKey)?;
    mac.update(content.as_bytes());
    mac.verify_slice(&claimed).map_err(|_| Refusal::UserSigWrongKey)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use chrono::DateTime;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn vectors() -> Vec<Value> {
        let file: Value = serde_json::from_str(include_str!("../../tests/data/usersig_vectors.json")).unwrap();
        file["vectors"].as_array().unwrap().clone()
    }

    fn at(seconds: i64) -> Timestamp {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn credentials_of(vector: &Value) -> Credentials {
        Credentials {
            sdk_app_id: SdkAppId::try_from(vector["sdkappid"].as_i64().unwrap()).unwrap(),
            identifier: vector["userid"].as_str().unwrap().to_owned(),
            secret_key: vector["key"].as_str().unwrap().into(),
        }
    }

    /// Vector 1: sdkappid 88888888, identifier admin, signed at 1735689600 for a day.
    fn sample() -> (String, Credentials) {
        let vector = vectors().swap_remove(1);
        (vector["usersig_python"].as_str().unwrap().to_owned(), credentials_of(&vector))
    }

    /// Packs any bytes like a UserSig.
    fn pack(content: &[u8]) -> String {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).unwrap();
        STANDARD.encode(encoder.finish().unwrap()).replace('+', "*").replace('/', "-").replace('=', "_")
    }

    #[test]
    fn signatures_of_both_public_implementations_hold_until_expiry() {
        let vectors = vectors();
        assert_eq!(vectors.len(), 6);
        for vector in vectors {
            let (time, expire) = (vector["time"].as_i64().unwrap(), vector["expire"].as_i64().unwrap());
            for implementation in ["usersig_python", "usersig_node"] {
                let user_sig = vector[implementation].as_str().unwrap();
                let verdict = |now| verify(user_sig, &credentials_of(&vector), at(now));
                assert_eq!(verdict(time), Ok(()), "{}", vector["note"]);
                assert_eq!(verdict(time + expire - 1), Ok(()));
                assert_eq!(verdict(time + expire), Err(Refusal::UserSigExpired));
            }
        }
    }

    #[test]
    fn a_signature_of_another_key_account_or_app_is_told_apart() {
        let (user_sig, right) = sample();
        let verdict = |credentials| verify(&user_sig, &credentials, at(1_735_689_600)).unwrap_err().code();
        assert_eq!(verdict(Credentials { secret_key: "another key".into(), ..right }), 70009);
        let (_, right) = sample();
        assert_eq!(verdict(Credentials { identifier: "administrator".to_owned(), ..right }), 70013);
        let (_, right) = sample();
        assert_eq!(verdict(Credentials { sdk_app_id: SdkAppId::try_from(7).unwrap(), ..right }), 70014);
    }

    #[test]
    fn what_is_no_signature_is_refused_at_the_step_that_fails() {
        let (user_sig, credentials) = sample();
        let verdict = |text: &str| verify(text, &credentials, at(1_735_689_600)).unwrap_err();
        assert_eq!(verdict(""), Refusal::UserSigMissing);
        let standard = user_sig.replace('_', "=");
        let followed =
            STANDARD.encode([STANDARD.decode(standard.replace('*', "+").replace('-', "/")).unwrap(), vec![0]].concat());
        let version_1 = json!({"TLS.ver": "1.0", "TLS.identifier": "admin", "TLS.sdkappid": 88888888, "TLS.expire": 1, "TLS.time": 1, "TLS.sig": ""});
        for (text, step) in [
            (standard.as_str(), "URL alphabet"),
            (&user_sig[..user_sig.len() - 3], "base64"),
            ("AAAA", "zlib"),
            (&followed.replace('+', "*").replace('/', "-").replace('=', "_"), "follows"),
            (&pack(b"{}"), "JSON"),
            (&pack(&vec![b' '; 5000]), "larger"),
            (&pack(version_1.to_string().as_bytes()), "TLS.ver"),
        ] {
            let refusal = verdict(text);
            assert_eq!(refusal.code(), 70003, "{step}");
            assert!(refusal.to_string().contains(step), "{refusal} should speak of {step}");
        }
    }

    proptest! {
        #[test]
        fn no_changed_character_that_means_something_passes(index in 0usize..200, replacement in "[A-Za-z0-9*_-]") {
            let (user_sig, credentials) = sample();
            let index = index % user_sig.len();
            let mut changed = user_sig.clone();
            changed.replace_range(index..=index, &replacement);
            prop_assume!(changed != user_sig);
            let inflated = |text| inflate(&STANDARD.decode(standard_alphabet(text).unwrap()).unwrap()).unwrap();
            if verify(&changed, &credentials, at(1_735_689_600)).is_ok() {
                prop_assert_eq!(inflated(&changed), inflated(&user_sig), "only deflate's unused bits may differ");
            }
        }

        #[test]
        fn no_text_whatever_passes_or_panics(text in ".{0,200}") {
            let (_, credentials) = sample();
            prop_assert!(verify(&text, &credentials, at(1_735_689_600)).is_err());
        }
    }
}
