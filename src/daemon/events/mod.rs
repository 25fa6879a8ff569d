//! Events of Tencent Chat's webhooks, from their arrival until they are with the recorder.
//!
//! An event is recorded like a poll, at the time that it tells. It never closes or quarantines anything: it makes a
//! slot due.

mod health;
mod inbox;
mod recording;

pub use self::{
    health::{Dropped, Health, OverLimit, WebhookReport},
    inbox::Inbox,
};
pub(crate) use self::{inbox::Arrival, recording::EventRecorder};
