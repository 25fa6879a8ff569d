//! The output of an export: standard output, or a file that gets its name only when it is complete. Never overwrites
//! a file.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io::{self, IsTerminal, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use rustix::fs::OFlags;

pub enum Output {
    Standard,
    File(Unfinished),
}

/// A file being written, next to its final place. It is removed with this value unless it was completed; after a kill
/// it stays, and the next export to this place starts it again.
pub struct Unfinished {
    file: File,
    part: PathBuf,
    path: PathBuf,
    is_complete: bool,
}

impl Output {
    /// Opens the output: `-` is standard output.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Standard);
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        // Not truncated before it is known that no other export writes it. Anybody who may write to the directory can
        // put a link there, which would redirect the output.
        let open = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&part);
        let file = open.with_context(|| format!("opening {} failed", part.display()))?;
        let metadata = file.metadata().with_context(|| format!("checking {} failed", part.display()))?;
        if !metadata.is_file() || metadata.nlink() > 1 {
            bail!("{} is a link or a device, not a regular file: remove it", part.display());
        }
        // A leftover file may be readable by all.
        let mode = metadata.permissions().mode() & 0o640;
        file.set_permissions(Permissions::from_mode(mode))
            .with_context(|| format!("closing {} failed", part.display()))?;
        match file.try_lock() {
            // A file system without locks can't tell.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => bail!("another export is writing {}", part.display()),
        }
        let output = Self::File(Unfinished { file, part, path: path.to_owned(), is_complete: false });
        // Another export may have finished in the meantime and now own this file.
        refuse_existing(path)?;
        output.emptied()
    }

    fn emptied(self) -> anyhow::Result<Self> {
        if let Self::File(unfinished) = &self {
            unfinished.file.set_len(0).with_context(|| self.failure())?;
        }
        Ok(self)
    }

    /// A writer for it.
    pub fn writer(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(match self {
            Self::Standard => Box::new(io::stdout()),
            Self::File(unfinished) => Box::new(unfinished.file.try_clone()?),
        })
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Standard) && io::stdout().is_terminal()
    }

    /// Context for write errors.
    pub fn failure(&self) -> String {
        match self {
            Self::Standard => "writing to standard output failed".to_owned(),
            Self::File(unfinished) => format!("writing {} failed", unfinished.part.display()),
        }
    }

    /// Gives the file its name once everything is on disk.
    pub fn complete(self) -> anyhow::Result<()> {
        let failure = self.failure();
        let Self::File(mut unfinished) = self else { return Ok(()) };
        unfinished.file.sync_all().context(failure)?;
        let Unfinished { part, path, .. } = &unfinished;
        refuse_existing(path)?;
        fs::rename(part, path).with_context(|| format!("renaming {} failed", part.display()))?;
        unfinished.is_complete = true;
        Ok(())
    }
}

fn refuse_existing(path: &Path) -> anyhow::Result<()> {
    if path.symlink_metadata().is_ok() {
        bail!("{} was created in the meantime and is not overwritten", path.display());
    }
    Ok(())
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_complete {
            // If even this fails, its name still shows that it is incomplete.
            _ = fs::remove_file(&self.part);
        }
    }
}
