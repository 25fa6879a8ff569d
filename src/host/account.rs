//! Accounts of this machine, from /etc/passwd, and work with the rights of one of them.
//!
//! It must never change an account, nor the credentials of a thread that continues.

use std::{fs, io, panic::resume_unwind, thread};

use rustix::{
    process::{Gid, Uid, geteuid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// Whether this process may switch to any account.
pub(crate) fn we_are_root() -> bool {
    geteuid().is_root()
}

impl Account {
    /// All accounts.
    ///
    /// # Errors
    /// If /etc/passwd can't be read.
    pub(crate) fn all() -> io::Result<Vec<Self>> {
        Ok(parse(&fs::read_to_string("/etc/passwd")?))
    }

    /// The account with this uid, if it has a name.
    pub(crate) fn with(uid: u32) -> Option<Self> {
        Self::all().ok()?.into_iter().find(|account| account.uid == uid)
    }

    /// Runs `work` with the rights of this account (only as root): in a directory of another account, root's own
    /// rights would follow links to anything.
    ///
    /// # Errors
    /// If the kernel refuses to give a thread these rights.
    pub(crate) fn act<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        // The kernel has credentials per thread, and this thread ends with them.
        let acting = || self.assume().map(|()| work());
        thread::scope(|scope| scope.spawn(acting).join().unwrap_or_else(|panic| resume_unwind(panic)))
    }

    fn assume(&self) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        Ok(set_thread_res_uid(uid, uid, uid)?)
    }
}

/// Parses the lines of /etc/passwd: `name:password:uid:gid:…`.
pub(crate) fn parse(passwd: &str) -> Vec<Account> {
    let account = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { name, uid, gid })
    };
    passwd.lines().filter_map(account).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn accounts_are_read_and_other_lines_passed_over() {
        let accounts = parse("root:x:0:0:root:/root:/bin/bash\n+::::::\n\nann:x:1000:1001::/home/ann:/bin/sh\n");
        let account = |name: &str, uid, gid| Account { name: name.into(), uid, gid };
        assert_eq!(accounts, [account("root", 0, 0), account("ann", 1000, 1001)]);
        assert_eq!(Account::with(0).unwrap().name, "root");
    }

    #[test]
    fn root_acts_as_another_account_and_stays_root() {
        if !we_are_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let nobody = Account { name: "nobody".into(), uid: 65_534, gid: 65_534 };
        let made = directory.path().join("made");
        let read = nobody.act(|| {
            fs::write(&made, "").unwrap();
            fs::read_to_string("/etc/shadow").map_err(|error| error.kind())
        });
        assert_eq!(read.unwrap(), Err(io::ErrorKind::PermissionDenied));
        let metadata = fs::metadata(&made).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (65_534, 65_534));
        assert!(we_are_root() && fs::read_to_string("/etc/shadow").is_ok());
    }
}
