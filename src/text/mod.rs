//! Text for people: durations, plurals, text that is safe to print, commands that can be pasted.

pub mod counted;
pub mod duration;
pub mod printable;
pub mod shell;
pub mod sparkline;
