//! The client of Tencent Chat's REST API: one call, one attempt, one classified outcome.
//!
//! In: a group and message seqs. Out: an [`Attempt`]. It knows nothing of schedules, retries or databases.

mod answer;
mod attempt;
mod body;
mod client;
mod destination;
pub mod error_class;
mod failure;
pub mod proxy;
pub mod region;
pub mod user_sig;
mod wire;

pub use self::{
    answer::Answer,
    attempt::Attempt,
    body::NotSent,
    client::{ChatClient, ChatSettings, ClientError},
    destination::Destination,
    error_class::Class,
    failure::Failure,
    region::Region,
    user_sig::Credential,
};
