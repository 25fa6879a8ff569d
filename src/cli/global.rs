//! The options of all commands, and the configuration that they name.

use std::{
    env,
    path::{Path, PathBuf},
};

use clap::Args;
use receiptd::config::Config;

/// The configuration file that is read if none is named and this one exists.
const USUAL_CONFIG: &str = "/etc/receiptd/receiptd.toml";

/// The variable that names another configuration file.
pub const CONFIG_VARIABLE: &str = "RECEIPTD_CONFIG";

/// The options of all commands.
#[derive(Args)]
pub struct Global {
    /// Configuration file [default: /etc/receiptd/receiptd.toml if it exists]
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE, hide_env_values = true, global = true)]
    config: Option<PathBuf>,
    /// Override a setting, for example polling.batch_size=20; repeatable, not for secrets
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value, global = true)]
    overrides: Vec<(String, String)>,
}

impl Global {
    /// The configuration file, named or usual, if there is one.
    pub fn config_file(&self) -> Option<&Path> {
        self.config.as_deref().or_else(|| existing(Path::new(USUAL_CONFIG)))
    }

    /// The settings of the file, the environment and `--set`.
    pub fn load_config(&self) -> anyhow::Result<Config> {
        let environment =
            env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Ok(Config::load(self.config_file(), environment, &self.overrides, receiptd::clock::now())?)
    }
}

/// The file, unless it is known to be missing. If this account may not search its directory, the command fails
/// instead of silently using other settings than the daemon.
fn existing(path: &Path) -> Option<&Path> {
    path.try_exists().unwrap_or(true).then_some(path)
}

fn key_and_value(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("give KEY=VALUE, as in polling.batch_size=20")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_file_that_can_not_be_looked_for_is_not_passed_over() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(existing(file.path()), Some(file.path()));
        assert_eq!(existing(&file.path().with_extension("missing")), None);
        // Simulates a directory that this account may not search.
        assert!(existing(&file.path().join("receiptd.toml")).is_some());
    }
}
