//! Pseudonyms: keyed hashes of accounts, the same for the same account, app and key.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use crate::domain::{Member, SdkAppId};

/// Number of bytes of the hash that are kept: two of a billion accounts are the same with a chance of 10^-21.
const BYTES: usize = 16;

/// How members are named in the database.
#[derive(Debug, Clone, Default)]
pub enum Naming {
    /// By their accounts.
    #[default]
    Accounts,
    /// By pseudonyms made with this key.
    Pseudonyms(SecretString),
}

impl Naming {
    /// The stored name of an account: with pseudonyms, `~` and 32 hexadecimal digits. `None` if the account is not one.
    pub fn name(&self, app: SdkAppId, account: &str) -> Option<Member> {
        let member = Member::new(account)?;
        let Self::Pseudonyms(key) = self else { return Some(member) };
        let digits = digits(key, &[&app.get().to_be_bytes(), account.as_bytes()])?;
        Member::new(&format!("~{digits}"))
    }

    /// Identifies a naming without revealing its key.
    pub fn fingerprint(&self) -> String {
        match self {
            Self::Accounts => "accounts".to_owned(),
            Self::Pseudonyms(key) => {
                format!("pseudonyms {}", digits(key, &[b"receiptd.member_naming"]).unwrap_or_default())
            }
        }
    }
}

/// The keyed hash of some bytes, in hexadecimal digits.
fn digits(key: &SecretString, parts: &[&[u8]]) -> Option<String> {
    let mut hash = <Hmac<Sha256> as KeyInit>::new_from_slice(key.expose_secret().as_bytes()).ok()?;
    parts.iter().for_each(|part| hash.update(part));
    Some(hash.finalize().into_bytes().iter().take(BYTES).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(id: i64) -> SdkAppId {
        SdkAppId::try_from(id).unwrap()
    }

    #[test]
    fn a_pseudonym_depends_on_the_account_the_app_and_the_key() {
        let name = |key: &str, id, account| Naming::Pseudonyms(key.into()).name(app(id), account).unwrap();
        let first = name("key", 1, "alice");
        assert_eq!(first, name("key", 1, "alice"));
        for other in [name("key", 1, "bob"), name("key", 2, "alice"), name("other", 1, "alice")] {
            assert_ne!(first, other);
        }
        assert!(first.as_str().len() == 33 && !first.as_str().contains("alice"));
    }

    /// As `printf '\0\0\0\1alice' | openssl dgst -sha256 -hmac key` prints it.
    #[test]
    fn a_pseudonym_is_an_hmac_that_others_can_compute() {
        let name = Naming::Pseudonyms("key".into()).name(app(1), "alice").unwrap();
        assert_eq!(name.as_str(), "~07901a0bd63b01ba62c5bc05923fcf6d");
    }

    #[test]
    fn namings_have_fingerprints_that_do_not_tell_the_key() {
        let of = |key: &str| Naming::Pseudonyms(key.into()).fingerprint();
        assert_eq!(Naming::Accounts.fingerprint(), "accounts");
        assert!(of("key") != of("other") && of("key") == of("key") && !of("canary").contains("canary"));
    }

    #[test]
    fn without_pseudonyms_the_account_itself_is_stored() {
        assert_eq!(Naming::Accounts.name(app(1), "alice").unwrap().as_str(), "alice");
        assert_eq!(Naming::Accounts.name(app(1), ""), None);
    }
}
