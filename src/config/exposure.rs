//! Files with secrets that other users of the machine can read or write. They cause a warning but are used.

use std::{
    fmt, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

/// A file with a secret that any user of the machine can read or change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExposedFile {
    path: PathBuf,
    mode: u32,
}

impl ExposedFile {
    /// The file, if other users can access it; `None` also if it can't be inspected, or if it is mounted by itself, as
    /// containers do with secrets: then its mode is for their accounts, and directories of the host may close it.
    pub(super) fn find(path: &Path) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        let mode = |path: &Path| Some(fs::metadata(path).ok()?.permissions().mode() & 0o777);
        let may_pass = |directory: &Path| mode(directory).is_some_and(|mode| mode & 0o001 != 0);
        let own = mode(&path)?;
        let is_exposed = own & 0o006 != 0 && path.ancestors().skip(1).all(may_pass) && !is_mounted(&path);
        is_exposed.then_some(Self { path, mode: own })
    }
}

/// Whether something is mounted just there.
fn is_mounted(path: &Path) -> bool {
    statx(CWD, path, AtFlags::empty(), StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

impl fmt::Display for ExposedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, mode } = self;
        let path = path.display();
        let what = if mode & 0o004 != 0 { "read" } else { "change" };
        write!(
            f,
            "{path} contains a secret, and every user of this machine can {what} it (mode {mode:03o}): chmod o-rwx \
             {path}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_mode(path: &Path, mode: u32) -> &Path {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_file_is_exposed_if_others_can_reach_and_use_it() {
        let directory = tempfile::tempdir().unwrap();
        with_mode(directory.path(), 0o755);
        let path = directory.path().join("key");
        fs::write(&path, "secret").unwrap();
        for (mode, is_exposed) in [(0o600, false), (0o640, false), (0o660, false), (0o644, true), (0o602, true)] {
            assert_eq!(ExposedFile::find(with_mode(&path, mode)).is_some(), is_exposed, "{mode:o}");
        }
        with_mode(&path, 0o644);
        let told = ExposedFile::find(&path).unwrap().to_string();
        assert!(told.contains("can read it (mode 644): chmod o-rwx /") && told.contains("/key"), "{told}");
        with_mode(directory.path(), 0o750);
        assert_eq!(ExposedFile::find(&path), None, "nobody gets there");
        assert_eq!(ExposedFile::find(Path::new("/nowhere")), None);
    }

    #[test]
    fn a_mounted_place_is_told_from_others() {
        assert!(is_mounted(Path::new("/proc")));
        assert!(!is_mounted(Path::new("/proc/self")) && !is_mounted(Path::new("/nowhere")));
    }
}
