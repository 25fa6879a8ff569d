//! `[chat]`: the app, its account, and where to reach Tencent Chat.

use std::net::IpAddr;

use super::{problem::Problems, section::Section};
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

pub(super) fn read(section: &mut Section<'_>) -> Settings {
    Settings {
        sdk_app_id: section.parsed(
            "sdk_app_id",
            None,
            "use the SDKAppID, a whole number from 1 to 4294967295",
            |text| text.parse::<i64>().ok().and_then(|id| SdkAppId::try_from(id).ok()).map(Some),
        ),
        // Every app has this account.
        identifier: section.parsed(
            "identifier",
            "administrator".to_owned(),
            "use the account of an app admin, without spaces or control characters",
            |text| is_account(text).then(|| text.to_owned()),
        ),
        credential: credential(section),
        destination: destination(section),
    }
}

fn credential(section: &mut Section<'_>) -> Option<Credential> {
    let key = section.secret("secret_key").map(Credential::SecretKey);
    let ready = section.secret("user_sig").map(Credential::UserSig);
    key.or(ready)
}

/// A line break in the account would change the meaning of the signature.
fn is_account(text: &str) -> bool {
    !text.is_empty() && !text.contains(|character: char| character.is_whitespace() || character.is_control())
}

fn destination(section: &mut Section<'_>) -> Option<Destination> {
    let names = Region::ALL.map(Region::name).join(", ");
    let region = section.parsed("region", None, format!("use one of {names}"), |text| {
        text.parse().ok().map(|region| Some(Destination::Region(region)))
    });
    match section.text(ENDPOINT) {
        Some(endpoint) => endpoint_origin(&endpoint, section).map(Destination::Endpoint),
        None => region,
    }
}

/// The key of a custom origin, instead of a region.
const ENDPOINT: &str = "endpoint";

fn endpoint_origin(endpoint: &str, section: &mut Section<'_>) -> Option<String> {
    if endpoint.contains('@') {
        section.refuse_silently(ENDPOINT, "contains credentials: use only scheme, host and port");
        return None;
    }
    let url = reqwest::Url::parse(endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let bare = |url: &reqwest::Url| url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let Some(url) = url.filter(bare) else {
        section.refuse(
            ENDPOINT,
            endpoint,
            "use an http or https URL of scheme, host and port, such as https://chat.example:443",
        );
        return None;
    };
    if url.scheme() == "http" && !is_loopback(&url) {
        section.refuse(
            ENDPOINT,
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
