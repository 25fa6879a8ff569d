//! `[chat]`: the app, its account, and where to reach Tencent Chat.

use std::{net::IpAddr, path::PathBuf};

use serde::Deserialize;

use super::{
    problem::Problems,
    secret::{self, SecretText},
};
use crate::{
    chat::{ChatSettings, Credential, Destination, Region},
    domain::SdkAppId,
};

/// The settings of a signature.
#[derive(Debug, Clone)]
pub struct Signing {
    /// The app to sign for.
    pub sdk_app_id: SdkAppId,
    /// The account to sign for.
    pub identifier: String,
    /// The key or signature to use.
    pub credential: Credential,
}

/// The section as far as it is set. Values are valid; missing ones are reported by commands that need them.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub sdk_app_id: Option<SdkAppId>,
    pub identifier: String,
    pub credential: Option<Credential>,
    pub destination: Option<Destination>,
}

/// The keys of the section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// The app's id, required by all commands that poll or watch.
    sdk_app_id: Option<String>,
    /// The app admin's account. Default: `administrator`, which every app has.
    identifier: Option<String>,
    /// The app's secret key.
    secret_key: Option<SecretText>,
    /// File with the app's secret key.
    secret_key_file: Option<PathBuf>,
    /// A ready signature, instead of the secret key.
    user_sig: Option<SecretText>,
    /// File with a ready signature.
    user_sig_file: Option<PathBuf>,
    /// The country of the app, which decides the domain.
    region: Option<String>,
    /// A custom origin, instead of a region.
    endpoint: Option<String>,
}

impl Keys {
    pub fn validate(self, problems: &mut Problems) -> Settings {
        let credential = secret::take("chat.secret_key", self.secret_key, self.secret_key_file.as_deref(), problems)
            .map(Credential::SecretKey)
            .or(secret::take("chat.user_sig", self.user_sig, self.user_sig_file.as_deref(), problems)
                .map(Credential::UserSig));
        Settings {
            sdk_app_id: problems.parsed(
                "chat.sdk_app_id",
                self.sdk_app_id,
                None,
                "use the SDKAppID, a whole number from 1 to 4294967295",
                |text| text.parse::<i64>().ok().and_then(|id| SdkAppId::try_from(id).ok()).map(Some),
            ),
            identifier: problems.parsed(
                "chat.identifier",
                self.identifier,
                "administrator".to_owned(),
                "use the account of an app admin, without spaces or control characters",
                |text| is_account(text).then(|| text.to_owned()),
            ),
            credential,
            destination: destination(self.region, self.endpoint, problems),
        }
    }
}

/// A line break in the account would change the meaning of the signature.
fn is_account(text: &str) -> bool {
    !text.is_empty() && !text.contains(|character: char| character.is_whitespace() || character.is_control())
}

fn destination(region: Option<String>, endpoint: Option<String>, problems: &mut Problems) -> Option<Destination> {
    if let Some(endpoint) = endpoint {
        return endpoint_origin(&endpoint, problems).map(Destination::Endpoint);
    }
    let names = Region::ALL.map(Region::name).join(", ");
    problems.parsed("chat.region", region, None, format!("use one of {names}"), |text| {
        text.parse().ok().map(|region| Some(Destination::Region(region)))
    })
}

fn endpoint_origin(endpoint: &str, problems: &mut Problems) -> Option<String> {
    const KEY: &str = "chat.endpoint";
    if endpoint.contains('@') {
        problems.refuse_silently(KEY, "contains credentials: use only scheme, host and port");
        return None;
    }
    let url = reqwest::Url::parse(endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let bare = |url: &reqwest::Url| url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let Some(url) = url.filter(bare) else {
        problems.refuse(
            KEY,
            endpoint,
            "use an http or https URL of scheme, host and port, such as https://chat.example:443",
        );
        return None;
    };
    if url.scheme() == "http" && !is_loopback(&url) {
        problems.refuse(
            KEY,
            endpoint,
            "would send the signature over the network unencrypted: use https, or a loopback address",
        );
        return None;
    }
    Some(url.origin().ascii_serialization())
}

pub(super) fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

impl Settings {
    /// The settings of a client; notes missing ones.
    pub fn complete(&self, problems: &mut Problems) -> Option<ChatSettings> {
        let signing = self.signing(problems);
        if self.destination.is_none() {
            let names = Region::ALL.map(Region::name).join(", ");
            let remedy = format!("is missing: set it to the country of the app, one of {names}, or set chat.endpoint");
            problems.refuse_silently("chat.region", remedy);
        }
        let (Signing { sdk_app_id, identifier, credential }, destination) = (signing?, self.destination.clone()?);
        Some(ChatSettings { sdk_app_id, identifier, credential, destination })
    }

    /// The settings of a signature; notes missing ones.
    pub fn signing(&self, problems: &mut Problems) -> Option<Signing> {
        let sdk_app_id = self.app(problems);
        if self.credential.is_none() {
            let remedy = "set chat.secret_key_file (or chat.secret_key), or chat.user_sig_file (or chat.user_sig), \
                to sign the calls; the key is in the Chat console, in the app's basic information";
            problems.refuse_silently("chat.secret_key_file", format!("is missing: {remedy}"));
        }
        Some(Signing {
            sdk_app_id: sdk_app_id?,
            identifier: self.identifier.clone(),
            credential: self.credential.clone()?,
        })
    }

    /// The app's id; notes it if missing.
    pub fn app(&self, problems: &mut Problems) -> Option<SdkAppId> {
        if self.sdk_app_id.is_none() {
            let remedy = "is missing: set it to the SDKAppID of your app, as shown in the Chat console";
            problems.refuse_silently("chat.sdk_app_id", remedy);
        }
        self.sdk_app_id
    }
}
