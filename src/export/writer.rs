//! The interface of the writers of all formats.

use std::io;

use super::batch::Batch;

/// Writes rows, batch by batch.
pub trait Writer: Send {
    /// Writes rows, or buffers them until there are enough.
    ///
    /// # Errors
    /// If writing fails.
    fn write(&mut self, batch: Batch) -> io::Result<()>;

    /// Writes buffered rows and the end of the file.
    ///
    /// # Errors
    /// If writing fails.
    fn finish(self: Box<Self>) -> io::Result<()>;
}
