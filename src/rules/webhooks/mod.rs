//! Tencent Chat's webhooks: where a request comes from, its content, and how far its events are trusted.
//!
//! An event is a hint with a time: polls confirm it. Whatever strangers may send is bounded here. Nothing about members
//! is kept, except for groups with readers on.

mod event;
mod hint;
mod members;
mod order;
mod replay;
mod request;
mod trust;

pub use self::{
    event::{BadEvent, Event, Group, ReceiptEntry, Receipts},
    hint::Hint,
    members::Members,
    order::{Arrived, Order, WINDOW},
    replay::Replays,
    request::{Refusal, Request, Secrets, signature},
    trust::{Tally, Trust},
};
