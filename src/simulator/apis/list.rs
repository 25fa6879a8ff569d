//! The APIs and their documented limits.

use super::request::{self, Asked};
use crate::simulator::refusal::Refusal;

/// An API of the simulated service.
#[derive(Debug)]
pub(in crate::simulator) struct Api {
    /// Its name, the last part of its path.
    pub name: &'static str,
    /// Maximum number of calls in any sliding second.
    pub calls_per_second: u32,
    pub(super) parse: fn(&[u8]) -> Result<Asked, Refusal>,
}

/// The APIs with their documented limits.
pub(in crate::simulator) const APIS: [Api; 4] = [
    Api { name: "get_group_info", calls_per_second: 200, parse: request::group_info },
    Api { name: "get_appid_group_list", calls_per_second: 1, parse: request::group_list },
    Api { name: "group_msg_get_simple", calls_per_second: 200, parse: request::history },
    Api { name: "get_group_msg_receipt_detail", calls_per_second: 200, parse: request::readers },
];
