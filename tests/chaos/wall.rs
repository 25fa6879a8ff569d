//! A machine's clock that can be set, for programs that are started with its variables. Durations are unaffected.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

pub struct Wall {
    offset: PathBuf,
}

impl Wall {
    pub fn new(directory: &Path) -> Self {
        let wall = Self { offset: directory.join("clock") };
        wall.set("+0");
        wall
    }

    /// Sets its offset, which its processes see within a second.
    pub fn set(&self, offset: &str) {
        // Atomically, for concurrent readers.
        let new = self.offset.with_extension("new");
        fs::write(&new, offset).unwrap();
        fs::rename(new, &self.offset).unwrap();
    }

    /// The variables for a program with this clock. `faketime` itself would be a process between the test and the
    /// program.
    pub fn variables(&self) -> Vec<(OsString, OsString)> {
        let asked = Command::new("faketime").args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"]).output().unwrap();
        let library = String::from_utf8(asked.stdout).unwrap();
        let always = ["FAKETIME_CACHE_DURATION", "FAKETIME_DONT_FAKE_MONOTONIC", "NO_FAKE_STAT"];
        let mut variables: Vec<_> = always.map(|name| (name.into(), "1".into())).into();
        variables.push(("LD_PRELOAD".into(), library.trim().into()));
        variables.push(("FAKETIME_TIMESTAMP_FILE".into(), self.offset.clone().into()));
        variables
    }
}
