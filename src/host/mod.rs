//! Users and processes of this machine. Nothing here knows the purpose of receiptd.

pub mod account;
pub mod holder;

pub use self::holder::Holder;
