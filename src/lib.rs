//! receiptd polls Tencent Chat for the read receipts of watched group messages and keeps their history in PostgreSQL.
//!
//! Data flows in one direction: watch list → slots → poller → pacing → chat client → recorder → tables. The decisions
//! ([`rules`]) are pure code that is given `now`; a thin shell adds I/O.

pub mod chat;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod domain;
pub mod embedded;
pub mod export;
pub mod host;
pub mod http;
pub mod import;
pub mod lifecycle;
pub mod logging;
pub mod postgres_url;
pub mod rules;
pub mod simulator;
pub mod store;
pub mod text;
pub mod webhooks;
