//! The protocol of Tencent Chat: the text of a call, its outcome, and the reaction to each error code.

pub mod answer;
pub mod attempt;
pub mod call;
pub mod error_class;
pub mod failure;
pub mod others;
pub mod wire;

pub use self::{
    answer::Answer,
    attempt::{Attempt, Called},
    call::{Api, Call, GetReceipts},
    error_class::Class,
    failure::Failure,
};
