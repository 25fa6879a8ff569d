//! Selects the account of the server: the current one, or for root an ordinary account, since PostgreSQL refuses
//! root. Root does everything in the data directory with the rights of that account. Nothing here changes an account,
//! or the permissions of existing files.

use std::{
    fs::{self, Metadata},
    io::ErrorKind,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf, absolute},
};

use super::{EmbeddedError, error::file};
use crate::host::account::Account;

/// The account that root uses for the server in `data_dir`. If the directory or one on its path belongs to an account
/// other than root, it is that one: so the service can use what root has created in its directory, and can't mislead
/// root with links. Otherwise it is `postgres` or `nobody`, and a missing directory is created and handed over to it.
pub(super) fn for_directory(data_dir: &Path) -> Result<Account, EmbeddedError> {
    let accounts = Account::all().map_err(file("reading", "/etc/passwd"))?;
    if let Some(owned) = owned_by_another(data_dir)? {
        let (uid, gid) = (owned.uid(), owned.gid());
        let known = accounts.into_iter().find(|account| account.uid == uid);
        return Ok(known.unwrap_or(Account { name: uid.to_string(), uid, gid }));
    }
    let account = choose(&accounts).ok_or(EmbeddedError::NoAccount)?;
    make_open_directories(data_dir)?;
    if fs::read_dir(data_dir).map_err(file("reading", data_dir))?.next().is_some() {
        return Err(EmbeddedError::OfRoot { data_dir: data_dir.into(), user: account.name });
    }
    chown(data_dir, Some(account.uid), Some(account.gid)).map_err(file("changing the owner of", data_dir))?;
    Ok(account)
}

fn choose(accounts: &[Account]) -> Option<Account> {
    ["postgres", "nobody"].iter().find_map(|name| accounts.iter().find(|account| account.name == *name).cloned())
}

/// The first directory or link on `path` that root does not own, and so can't trust.
fn owned_by_another(path: &Path) -> Result<Option<Metadata>, EmbeddedError> {
    let written = absolute(path).map_err(file("resolving", path))?;
    let (is_there, found) = walk(&written)?;
    if found.is_some() {
        return Ok(found);
    }
    // Links owned by root are followed.
    let real = is_there.canonicalize().map_err(file("resolving", is_there))?;
    Ok(walk(&real)?.1)
}

/// Follows `path` from the root to the first part that root does not own, or the last existing one.
fn walk(path: &Path) -> Result<(PathBuf, Option<Metadata>), EmbeddedError> {
    let mut last = PathBuf::from("/");
    let mut ancestors: Vec<&Path> = path.ancestors().collect();
    while let Some(next) = ancestors.pop() {
        match fs::symlink_metadata(next) {
            Ok(metadata) if metadata.uid() != 0 => return Ok((next.into(), Some(metadata))),
            Ok(_) => last = next.into(),
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(file("inspecting", next)(error)),
        }
    }
    Ok((last, None))
}

/// Creates the missing parts of `path`, such that any account may enter them even with a strict umask. Existing parts
/// are unchanged.
fn make_open_directories(path: &Path) -> Result<(), EmbeddedError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_open_directories(parent)?;
    }
    fs::create_dir(path).map_err(file("creating", path))?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).map_err(file("opening", path))
}

/// Runs `work` with the rights of `account`, if there is one.
pub(super) fn act<T: Send>(
    account: Option<&Account>,
    work: impl FnOnce() -> Result<T, EmbeddedError> + Send,
) -> Result<T, EmbeddedError> {
    match account {
        Some(account) => account.act(work).map_err(file("switching to the account", &account.name))?,
        None => work(),
    }
}

/// Refuses a directory that the account can't reach, with a clearer message than PostgreSQL's.
pub(super) fn refuse_closed_directories(account: &Account, path: &Path) -> Result<(), EmbeddedError> {
    // The account creates the missing parts itself.
    let path = match path.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        real => real.map_err(file("resolving", path))?,
    };
    for directory in path.ancestors() {
        let metadata = fs::metadata(directory).map_err(file("inspecting", directory))?;
        if !may_enter(account, metadata.uid(), metadata.gid(), metadata.mode()) {
            let (user, mode) = (account.name.clone(), metadata.mode() & 0o7777);
            return Err(EmbeddedError::ClosedDirectory { user, directory: directory.into(), mode });
        }
    }
    Ok(())
}

/// The server has no group but its account's own: with root's rights, the standard library drops the others.
fn may_enter(account: &Account, owner: u32, group: u32, mode: u32) -> bool {
    let bit = match (owner == account.uid, group == account.gid) {
        (true, _) => 0o100,
        (false, true) => 0o010,
        (false, false) => 0o001,
    };
    mode & bit != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::account::parse;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        nobody:x:65534:65533:nobody:/nonexistent:/usr/sbin/nologin\n\
        +::::::\n\
        ann:x:1000:1000::/home/ann:/bin/bash\n\
        postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash\n";

    #[test]
    fn a_new_directory_of_roots_goes_to_postgres_or_else_to_nobody() {
        let chosen = |passwd: &str| choose(&parse(passwd)).map(|account| (account.name, account.uid, account.gid));
        assert_eq!(chosen(PASSWD), Some(("postgres".into(), 101, 104)));
        let without_postgres: String = PASSWD.lines().take(4).map(|line| format!("{line}\n")).collect();
        assert_eq!(chosen(&without_postgres), Some(("nobody".into(), 65_534, 65_533)));
        assert_eq!(chosen("root:x:0:0:root:/root:/bin/bash\n"), None);
    }

    #[test]
    fn search_permission_depends_on_owner_then_group_then_others() {
        let account = Account { name: "postgres".into(), uid: 101, gid: 104 };
        let table = [
            (0, 0, 0o755, true),
            (0, 0, 0o750, false),
            (0, 104, 0o750, true),
            (0, 104, 0o701, false),
            (101, 0, 0o700, true),
            (101, 104, 0o077, false),
            (0, 0, 0o1777, true),
            (0, 0, 0o766, false),
        ];
        for (owner, group, mode, expected) in table {
            assert_eq!(may_enter(&account, owner, group, mode), expected, "{owner}:{group} {mode:o}");
        }
    }

    #[test]
    fn a_closed_parent_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let inner = parent.path().join("postgres");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(parent.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let stranger = Account { name: "stranger".into(), uid: u32::MAX - 1, gid: u32::MAX - 1 };
        let error = refuse_closed_directories(&stranger, &inner).unwrap_err().to_string();
        assert!(error.contains(&format!("can't enter {} (mode 0700)", parent.path().display())), "{error}");
    }
    #[test]
    fn missing_parents_are_made_such_that_others_may_enter() {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let path = place.path().join("a/b");
        make_open_directories(&path).unwrap();
        for made in [place.path().join("a"), path] {
            assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o755);
        }
        assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
