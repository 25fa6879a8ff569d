//! The command `receiptd`: parse, dispatch, exit code. What it does is in the library; how it is asked, in `cli`.

mod cli;

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    cli::main().await
}
