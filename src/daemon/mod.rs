//! The work of the daemon: leadership, polling, storing results, and jobs. It wraps the decisions of [`crate::rules`]
//! in waiting and I/O, and knows neither SQL nor HTTP.

pub mod activity;
pub mod discovery;
pub mod events;
pub mod jobs;
pub mod leadership;
pub mod other_calls;
pub mod pacing;
pub(crate) mod parts;
pub mod poller;
pub mod readers;
pub mod recorder;
pub mod report;
pub mod status;
