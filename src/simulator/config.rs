//! The settings of the simulated service.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use secrecy::SecretString;

use super::{latency::Latency, world::WorldConfig};
use crate::domain::SdkAppId;

/// The settings of the simulated service.
#[derive(Debug, Clone)]
pub struct SimulatorConfig {
    /// A loopback address; port 0 selects a free port.
    pub listen: SocketAddr,
    /// The app that it serves.
    pub sdk_app_id: SdkAppId,
    /// The app's admin, the only identifier that may call.
    pub identifier: String,
    /// The key that the admin's UserSig is verified with.
    pub secret_key: SecretString,
    /// Maximum number of calls in any sliding second; further ones get 60011.
    pub calls_per_second: u32,
    /// Maximum length of `MsgSeqList`; longer ones get 10004. The service documents none.
    pub max_batch: Option<usize>,
    /// Latency of answers.
    pub latency: Latency,
    /// Its groups and messages.
    pub world: WorldConfig,
}

impl SimulatorConfig {
    /// The documented service: 200 calls per second, no limit on batches, 10 to 30 ms of latency, every group exists;
    /// on a free port of 127.0.0.1.
    pub fn new(sdk_app_id: SdkAppId, identifier: impl Into<String>, secret_key: SecretString) -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            sdk_app_id,
            identifier: identifier.into(),
            secret_key,
            calls_per_second: 200,
            max_batch: None,
            latency: (Duration::from_millis(10)..=Duration::from_millis(30)).into(),
            world: WorldConfig::default(),
        }
    }

    pub(super) fn validate(&self) -> Result<(), SimulatorError> {
        if !self.listen.ip().is_loopback() {
            return Err(SimulatorError::NotLoopback(self.listen));
        }
        let fault = self.latency.fault().or_else(|| self.world.fault());
        fault.map_or(Ok(()), |reason| Err(SimulatorError::Config(reason)))
    }
}

/// Why the simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// The address can be reached from other machines.
    #[error("the simulated Chat can't listen on {0}: use a loopback address such as 127.0.0.1:9000")]
    NotLoopback(SocketAddr),
    /// The port is not available.
    #[error("the simulated Chat can't listen on {address}: is the port taken? Use port 0 for a free one")]
    Listen {
        /// The requested address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The config is impossible.
    #[error("the simulated Chat can't be set up: {0}")]
    Config(&'static str),
}
