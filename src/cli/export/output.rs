//! Where an export goes: standard output, or a file that gets its name only when it is whole. It never overwrites one.

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

/// A file that is being written, beside the place where it will be. It goes with this value unless it has been completed;
/// after a kill it stays, and the next export to this place begins it anew.
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
        // Not emptied before it is known that nobody else writes it.
        // Whoever may write in the same directory can put a link there, which would lead what is written elsewhere.
        let open = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&part);
        let file = open.with_context(|| format!("opening {} failed", part.display()))?;
        let metadata = file.metadata().with_context(|| format!("looking at {} failed", part.display()))?;
        if !metadata.is_file() || metadata.nlink() > 1 {
            bail!("{} is no file of its own, but a link or a device: remove it", part.display());
        }
        // One that was left may be open to all.
        let mode = metadata.permissions().mode() & 0o640;
        file.set_permissions(Permissions::from_mode(mode))
            .with_context(|| format!("closing {} failed", part.display()))?;
        match file.try_lock() {
            // A file system without locks can't tell.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => bail!("another export is writing {}", part.display()),
        }
        let output = Self::File(Unfinished { file, part, path: path.to_owned(), is_complete: false });
        // Another export may have finished since: then this is its file by now.
        refuse_existing(path)?;
        output.emptied()
    }

    fn emptied(self) -> anyhow::Result<Self> {
        if let Self::File(unfinished) = &self {
            unfinished.file.set_len(0).with_context(|| self.failure())?;
        }
        Ok(self)
    }

    /// What writes to it.
    pub fn writer(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(match self {
            Self::Standard => Box::new(io::stdout()),
            Self::File(unfinished) => Box::new(unfinished.file.try_clone()?),
        })
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Standard) && io::stdout().is_terminal()
    }

    /// What to say when writing fails.
    pub fn failure(&self) -> String {
        match self {
            Self::Standard => "writing to standard output failed".to_owned(),
            Self::File(unfinished) => format!("writing {} failed", unfinished.part.display()),
        }
    }

    /// Gives the file its name, once everything is on the disk.
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
        bail!("{} is there by now, and is not overwritten", path.display());
    }
    Ok(())
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_complete {
            // If even this fails, its name still says what it is.
            _ = fs::remove_file(&self.part);
        }
    }
}
