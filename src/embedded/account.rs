//! Whom the server runs as: ourselves, or, for root, an ordinary account, since PostgreSQL refuses root.
//! Nothing here changes an account or the permissions of what was there before.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::Path,
    process::Command,
};

use rustix::{fs::OFlags, process::geteuid};

use super::{EmbeddedError, error::file, programs};

/// An account of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Whether this process may run as anybody.
pub(super) fn we_are_root() -> Result<bool, EmbeddedError> {
    let mut id = Command::new("id");
    id.arg("-u");
    Ok(programs::output(id)?.trim() == "0")
}

impl Account {
    /// The account that root runs the server under: the owner of the cluster where there is one, so that it
    /// stays readable when accounts come and go.
    pub(super) fn for_cluster(cluster: &Path) -> Result<Self, EmbeddedError> {
        let passwd = fs::read_to_string("/etc/passwd").map_err(file("reading", "/etc/passwd"))?;
        let owner = fs::metadata(cluster).ok().map(|metadata| metadata.uid());
        choose(&passwd, owner).ok_or(EmbeddedError::NoAccount)
    }

    /// Hands a directory that we have just made over to the account. What somebody has put in its place meanwhile, whose parent
    /// may be theirs, is not: a link to it is not followed, and a directory of another owner is left alone.
    pub(super) fn take_over(&self, path: &Path) -> Result<(), EmbeddedError> {
        let failed = |error| file("changing the owner of", path)(error);
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory =
            File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path).map_err(failed)?;
        let is_ours = directory.metadata().map_err(failed)?.uid() == geteuid().as_raw();
        if !is_ours {
            return Err(failed(io::Error::other("somebody else has put another directory in its place")));
        }
        fchown(&directory, Some(self.uid), Some(self.gid)).map_err(failed)
    }

    /// Refuses a directory that the account can't reach, which PostgreSQL would put less clearly.
    pub(super) fn refuse_closed_directories(&self, path: &Path) -> Result<(), EmbeddedError> {
        for directory in path.ancestors() {
            let metadata = fs::metadata(directory).map_err(file("looking at", directory))?;
            if !self.may_enter(metadata.uid(), metadata.gid(), metadata.mode()) {
                let (user, mode) = (self.name.clone(), metadata.mode() & 0o7777);
                return Err(EmbeddedError::ClosedDirectory { user, directory: directory.into(), mode });
            }
        }
        Ok(())
    }

    /// The server has no group but its account's own: the standard library drops the others with root's rights.
    fn may_enter(&self, owner: u32, group: u32, mode: u32) -> bool {
        let bit = match (owner == self.uid, group == self.gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        mode & bit != 0
    }
}

fn choose(passwd: &str, owner: Option<u32>) -> Option<Account> {
    let accounts: Vec<Account> = passwd.lines().filter_map(parse).filter(|account| account.uid != 0).collect();
    let found = accounts
        .iter()
        .find(|account| Some(account.uid) == owner)
        .or_else(|| accounts.iter().find(|account| account.name == "postgres"))
        .or_else(|| accounts.iter().find(|account| account.name == "nobody"));
    found.cloned()
}

/// One line of /etc/passwd: `name:password:uid:gid:…`.
fn parse(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Account { name, uid, gid })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        nobody:x:65534:65533:nobody:/nonexistent:/usr/sbin/nologin\n\
        +::::::\n\
        ann:x:1000:1000::/home/ann:/bin/bash\n\
        postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash\n";

    fn chosen(passwd: &str, owner: Option<u32>) -> Option<String> {
        choose(passwd, owner).map(|account| account.name)
    }

    #[test]
    fn a_new_cluster_belongs_to_postgres_or_else_to_nobody() {
        assert_eq!(chosen(PASSWD, None).as_deref(), Some("postgres"));
        let without_postgres: String = PASSWD.lines().take(4).map(|line| format!("{line}\n")).collect();
        assert_eq!(choose(&without_postgres, None), Some(Account { name: "nobody".into(), uid: 65534, gid: 65533 }));
        assert_eq!(chosen("root:x:0:0:root:/root:/bin/bash\n", None), None);
    }

    #[test]
    fn a_cluster_that_stands_stays_its_owners_but_never_roots() {
        assert_eq!(chosen(PASSWD, Some(1000)).as_deref(), Some("ann"));
        assert_eq!(chosen(PASSWD, Some(65534)).as_deref(), Some("nobody"));
        assert_eq!(chosen(PASSWD, Some(0)).as_deref(), Some("postgres"));
        assert_eq!(chosen(PASSWD, Some(4242)).as_deref(), Some("postgres"));
    }

    #[test]
    fn the_search_bit_that_counts_is_the_owners_then_the_groups_then_the_others() {
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
            assert_eq!(account.may_enter(owner, group, mode), expected, "{owner}:{group} {mode:o}");
        }
    }

    #[test]
    fn a_closed_parent_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let inner = parent.path().join("postgres");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(parent.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let stranger = Account { name: "stranger".into(), uid: u32::MAX - 1, gid: u32::MAX - 1 };
        let error = stranger.refuse_closed_directories(&inner).unwrap_err().to_string();
        assert!(error.contains(&format!("may not enter {} (mode 0700)", parent.path().display())), "{error}");
    }
}
