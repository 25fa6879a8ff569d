//! `receiptd usersig`: a signature for other tools, such as curl.

use std::{io::Write, process::ExitCode};

use anyhow::{Context, bail};
use chrono::TimeDelta;
use clap::Args;
use receiptd::{
    chat::{Credential, user_sig},
    clock,
};
use secrecy::ExposeSecret;

use super::{Global, stdout};

/// Print a UserSig made from the secret key
#[derive(Args)]
pub struct Arguments {
    /// Account of the signature [default: chat.identifier]
    #[arg(long, value_name = "ACCOUNT")]
    identifier: Option<String>,
    /// Validity
    #[arg(long, value_name = "SPAN", default_value = "1h")]
    valid_for: humantime::Duration,
}

pub fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let signing = global.load_config()?.signing()?;
    let Credential::SecretKey(secret_key) = &signing.credential else {
        bail!("chat.user_sig is already a signature: to generate one, set chat.secret_key_file");
    };
    let identifier = arguments.identifier.as_deref().unwrap_or(&signing.identifier);
    let valid_for = TimeDelta::from_std(*arguments.valid_for).context("--valid-for is too long")?;
    let signature = user_sig::sign(signing.sdk_app_id, identifier, secret_key, clock::now(), valid_for)?;
    writeln!(stdout(), "{}", signature.expose_secret())?;
    Ok(ExitCode::SUCCESS)
}
