//! The command `receiptd`: parsing, dispatch, exit code. The work is in the library, the command line in `cli`.

mod cli;

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    keep_memory_private();
    cli::main().await
}

/// Prevents core dumps of this process, and other processes of the same account from reading its memory: it holds
/// secrets.
fn keep_memory_private() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // Not fatal if an old kernel or a sandbox refuses it.
        _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}
