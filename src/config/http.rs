//! `[http]`: where health, readiness and metrics are served.

use std::net::{Ipv4Addr, SocketAddr};

use serde::Deserialize;

use super::problem::Problems;

/// Where health, readiness and metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// The address to listen at; `None` serves nothing.
    pub listen: Option<SocketAddr>,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464))) }
    }
}

/// The keys of the section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// An address with its port, or `off`.
    listen: Option<String>,
}

impl Keys {
    pub fn validate(self, problems: &mut Problems) -> Http {
        let remedy = "give an IP address with a port, as in \"127.0.0.1:9464\" or \"[::1]:9464\", or \"off\"";
        let listen = problems.parsed("http.listen", self.listen, Http::default().listen, remedy, |text| match text {
            "off" => Some(None),
            address => address.parse().ok().map(Some),
        });
        Http { listen }
    }
}
