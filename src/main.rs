//! The command `receiptd`: parse, dispatch, exit code. What it does is in the library; how it is asked, in `cli`.

mod cli;

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    keep_memory_private();
    cli::main().await
}

/// Has the kernel write no core of this process and let no other of the same account read its memory: it holds secrets.
fn keep_memory_private() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // An old kernel or a sandbox that refuses this is no reason not to run.
        _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}
