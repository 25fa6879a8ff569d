//! The client of Tencent Chat's REST API: one call, one attempt, one classified outcome.

pub mod region;
