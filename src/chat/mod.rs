//! The client of Tencent Chat's REST API: one call, one attempt, one classified outcome.
//!
//! In: a group and message seqs. Out: an [`Attempt`]. It knows nothing of schedules, retries or databases.

mod body;
mod client;
mod destination;
pub mod proxy;
pub mod region;
pub mod user_sig;

pub use self::{
    body::NotSent,
    client::{ChatClient, ChatSettings, ClientError},
    destination::Destination,
    region::Region,
    user_sig::Credential,
};
