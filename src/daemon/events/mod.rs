//! Events of Tencent Chat's webhooks, from their arrival until they reach the recorder.
//!
//! An event is recorded like a poll at its own time. It never closes or quarantines anything: it only makes a slot due.

mod health;
mod inbox;
mod readers;
mod recording;

pub use self::{
    health::{Dropped, Health, OverLimit, WebhookReport},
    inbox::Inbox,
    readers::ReaderGroups,
};
pub(crate) use self::{inbox::Arrival, readers::ToldReaders, recording::EventRecorder};
