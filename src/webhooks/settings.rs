//! The settings that a reload may change.

use super::forward::Forward;
use crate::{config::Listener, domain::SdkAppId, rules::webhooks::Secrets};

/// The settings that a reload may change.
#[derive(Debug)]
pub(crate) struct Settings {
    pub secrets: Secrets,
    pub forward: Option<Forward>,
}

impl Settings {
    pub fn of(listener: &Listener, sdk_app_id: SdkAppId) -> Self {
        let secrets = Secrets { sdk_app_id, path: listener.path.clone(), tokens: listener.tokens.clone() };
        Self { secrets, forward: listener.forward.clone().map(Forward::new) }
    }
}
