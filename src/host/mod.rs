//! What this machine knows of its users and processes. Nothing here knows what receiptd does.

pub mod account;
pub mod holder;

pub use self::holder::Holder;
