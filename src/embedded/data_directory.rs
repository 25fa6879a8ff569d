//! The server's files, all in one directory that only one receiptd at a time may use:
//!
//! - `cluster`, PostgreSQL's own data directory; `cluster.new` during its creation
//! - `socket`, created at each start, or a directory in /tmp if the path is unsuitable for a socket
//! - `server.log`, and the previous one as `server.log.old`
//! - `lock`, held while the server runs
//!
//! When run by root, all of this is done with the rights of the server's account: see [`super::account::act`].

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
};

use rustix::fs::OFlags;

use super::{
    EmbeddedError,
    error::file,
    programs::{self, Programs},
};

/// Maximum length of a socket's path: 108 bytes on Linux and 104 on macOS, including a terminating zero and
/// `/.s.PGSQL.5432`.
const LONGEST_SOCKET_DIR: usize = 104 - 16;

/// The data directory, locked against every other receiptd.
#[derive(Debug)]
pub(super) struct DataDirectory {
    path: PathBuf,
    lock: File,
}

impl Drop for DataDirectory {
    fn drop(&mut self) {
        // Closing the file is not enough while a child being started elsewhere in this process has it open too, until
        // its exec.
        _ = self.lock.unlock();
    }
}

impl DataDirectory {
    /// Creates the directory if it is missing, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, EmbeddedError> {
        fs::create_dir_all(path).map_err(file("creating", path))?;
        let path = path.canonicalize().map_err(file("resolving", path))?;
        let lock = lock(&path)?;
        Ok(Self { path, lock })
    }

    /// Whether a directory of ours contains a cluster and this process may read and lock it.
    pub(super) fn is_usable(path: &Path) -> bool {
        let lock = open_no_link(File::options().read(true).write(true), &path.join("lock"));
        let is_locked_out = lock.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
        !is_locked_out && read_no_link(&Self::cluster_in(path).join("PG_VERSION")).is_ok()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// PostgreSQL's own data directory.
    pub(super) fn cluster(&self) -> PathBuf {
        Self::cluster_in(&self.path)
    }

    /// PostgreSQL's own data directory in a directory of ours.
    pub(super) fn cluster_in(path: &Path) -> PathBuf {
        path.join("cluster")
    }

    /// The server's log.
    pub(super) fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    /// The major version of PostgreSQL that wrote the data; `None` if there is no data yet.
    pub(super) fn version(&self) -> Result<Option<u32>, EmbeddedError> {
        let path = self.cluster().join("PG_VERSION");
        let text = match read_no_link(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(file("reading", &path))?,
        };
        let version = String::from_utf8_lossy(&text).trim().parse();
        let version = version.map_err(|error| file("reading", path)(io::Error::other(error)))?;
        Ok(Some(version))
    }

    /// Creates the cluster if it doesn't exist: next to its place, and moved there when it is complete, so that an
    /// interrupted start leaves nothing that looks like a cluster.
    pub(super) fn initialize(&self, programs: &Programs) -> Result<(), EmbeddedError> {
        if self.version()?.is_some() {
            return Ok(());
        }
        let unfinished = self.path.join("cluster.new");
        remove_directory(&unfinished)?;
        make_private_directory(&unfinished)?;
        let mut initdb = programs.command("initdb");
        // Every system has the locale C; with UTF8 it can still store any text. Accounts that may enter the directory
        // of the socket are trusted; TCP is rejected, should the server ever listen.
        initdb
            .args(["-U", "postgres", "--auth-local=trust", "--auth-host=reject", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&unfinished);
        programs::output(initdb)?;
        fs::rename(&unfinished, self.cluster()).map_err(file("moving the new cluster to", self.cluster()))
    }

    /// An empty directory for the server's socket, which only the server's account and root may enter.
    pub(super) fn make_socket_dir(&self) -> Result<PathBuf, EmbeddedError> {
        let directory = socket_dir(&self.path);
        remove_directory(&directory)?;
        make_private_directory(&directory)?;
        Ok(directory)
    }

    pub(super) fn remove_socket_dir(&self, directory: &Path) -> Result<(), EmbeddedError> {
        remove_directory(directory)
    }

    /// A new log; the previous one is kept next to it.
    pub(super) fn new_log(&self) -> Result<File, EmbeddedError> {
        let path = self.log();
        if path.exists() {
            fs::rename(&path, self.path.join("server.log.old")).map_err(file("setting aside", &path))?;
        }
        File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(file("creating", &path))
    }
}

fn make_private_directory(path: &Path) -> Result<(), EmbeddedError> {
    DirBuilder::new().mode(0o700).create(path).map_err(file("creating", path))
}

fn remove_directory(path: &Path) -> Result<(), EmbeddedError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(file("removing", path)),
    }
}

/// Opens a file in a directory that may belong to another account. Doesn't follow a link, which could lead to any
/// file that this process may access and that account may not.
fn open_no_link(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file: remove it"));
    }
    Ok(file)
}

/// Maximum size that is read. The server's files are short, except for its log, whose end matters.
const MAX_READ: u64 = 64 * 1024;

/// The last 64 KB of a file in a directory that may belong to another account.
pub(super) fn read_no_link(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = open_no_link(File::options().read(true), path)?;
    file.seek(SeekFrom::Start(file.metadata()?.len().saturating_sub(MAX_READ)))?;
    file.take(MAX_READ).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Locks the directory for this process; the lock ends with the process, however that exits.
fn lock(data_dir: &Path) -> Result<File, EmbeddedError> {
    let path = data_dir.join("lock");
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut lock = open_no_link(&mut options, &path).map_err(file("opening", &path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            lock.read_to_string(&mut holder).map_err(file("reading", &path))?;
            return Err(EmbeddedError::InUse { data_dir: data_dir.into(), holder: holder.trim().to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(file("locking", path)(error)),
    }
    // Padded, to overwrite the text of an earlier holder.
    let holder = format!("process {:<12}\n", process::id());
    lock.write_all(holder.as_bytes()).map_err(file("writing", path))?;
    Ok(lock)
}

/// In the data directory. If its path is too long for a socket, or contains a comma, which psql takes for the end of
/// a host: a place in /tmp that depends only on the data directory, so that leftovers of a killed receiptd are found
/// again.
fn socket_dir(data_dir: &Path) -> PathBuf {
    let usual = data_dir.join("socket");
    if usual.to_str().is_some_and(|path| path.len() <= LONGEST_SOCKET_DIR && !path.contains(',')) {
        return usual;
    }
    let mut hasher = DefaultHasher::new();
    data_dir.hash(&mut hasher);
    PathBuf::from(format!("/tmp/receiptd-{:016x}", hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_use_is_refused_until_its_process_is_done() {
        let place = tempfile::tempdir().unwrap();
        let first = DataDirectory::open(place.path()).unwrap();
        let refusal = DataDirectory::open(place.path()).unwrap_err().to_string();
        let path = place.path().canonicalize().unwrap();
        let expected = format!("{} is in use by another receiptd (process {}):", path.display(), process::id());
        assert!(refusal.starts_with(&expected), "{refusal}");
        drop(first);
        DataDirectory::open(place.path()).unwrap();
    }

    #[test]
    fn a_link_in_place_of_a_file_of_the_server_is_not_read() {
        let place = tempfile::tempdir().unwrap();
        let (data_dir, other) = (place.path().join("data"), place.path().join("other"));
        fs::create_dir_all(data_dir.join("cluster")).unwrap();
        fs::write(&other, "15\n").unwrap();
        std::os::unix::fs::symlink(&other, data_dir.join("cluster/PG_VERSION")).unwrap();
        assert!(!DataDirectory::is_usable(&data_dir));
        let refusal = DataDirectory::open(&data_dir).unwrap().version().unwrap_err().to_string();
        assert!(refusal.contains("cluster/PG_VERSION"), "{refusal}");
        fs::remove_file(data_dir.join("cluster/PG_VERSION")).unwrap();
        fs::copy(&other, data_dir.join("cluster/PG_VERSION")).unwrap();
        assert!(DataDirectory::is_usable(&data_dir));
        fs::write(&other, "x".repeat(200_000)).unwrap();
        assert_eq!(read_no_link(&other).unwrap().len(), 64 * 1024, "however long somebody makes it");
    }

    #[test]
    fn a_child_that_is_being_started_does_not_keep_the_lock() {
        let place = tempfile::tempdir().unwrap();
        let first = DataDirectory::open(place.path()).unwrap();
        // As between the fork and the exec of a child.
        let _inherited = first.lock.try_clone().unwrap();
        drop(first);
        DataDirectory::open(place.path()).unwrap();
    }

    #[test]
    fn a_link_in_place_of_the_lock_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let (data_dir, precious) = (place.path().join("data"), place.path().join("precious"));
        fs::write(&precious, "keep this").unwrap();
        fs::create_dir(&data_dir).unwrap();
        std::os::unix::fs::symlink(&precious, data_dir.join("lock")).unwrap();
        let refusal = DataDirectory::open(&data_dir).unwrap_err().to_string();
        assert!(refusal.contains("lock"), "{refusal}");
        _ = DataDirectory::is_usable(&data_dir);
        assert_eq!(fs::read_to_string(&precious).unwrap(), "keep this");
    }

    #[test]
    fn the_lock_names_its_latest_holder_alone() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("lock"), "process 4294967295  \n").unwrap();
        let _held = DataDirectory::open(place.path()).unwrap();
        let refusal = DataDirectory::open(place.path()).unwrap_err().to_string();
        assert!(refusal.contains(&format!("(process {})", process::id())), "{refusal}");
    }

    #[test]
    fn the_version_is_the_clusters_own_and_nonsense_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(place.path()).unwrap();
        assert_eq!(directory.version().unwrap(), None);
        fs::create_dir(directory.cluster()).unwrap();
        fs::write(directory.cluster().join("PG_VERSION"), "15\n").unwrap();
        assert_eq!(directory.version().unwrap(), Some(15));
        fs::write(directory.cluster().join("PG_VERSION"), "fifteen\n").unwrap();
        assert!(directory.version().unwrap_err().to_string().contains("PG_VERSION"));
    }

    #[test]
    fn a_directory_is_usable_once_it_has_a_cluster() {
        let place = tempfile::tempdir().unwrap();
        assert!(!DataDirectory::is_usable(&place.path().join("nowhere")));
        let directory = DataDirectory::open(place.path()).unwrap();
        assert!(!DataDirectory::is_usable(place.path()), "it is made, and empty");
        fs::create_dir(directory.cluster()).unwrap();
        fs::write(directory.cluster().join("PG_VERSION"), "15\n").unwrap();
        assert!(DataDirectory::is_usable(place.path()));
    }

    #[test]
    fn the_log_before_is_kept_and_the_one_before_that_is_not() {
        let place = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(place.path()).unwrap();
        for line in ["first", "second", "third"] {
            directory.new_log().unwrap().write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(directory.log()).unwrap(), "third");
        assert_eq!(fs::read_to_string(place.path().join("server.log.old")).unwrap(), "second");
    }

    #[test]
    fn the_socket_lies_in_the_data_directory_if_its_path_fits() {
        assert_eq!(socket_dir(Path::new("/srv/my postgres")), Path::new("/srv/my postgres/socket"));
        let longest = PathBuf::from(format!("/{}", "d".repeat(LONGEST_SOCKET_DIR - "//socket".len())));
        assert_eq!(socket_dir(&longest), longest.join("socket"));
        for name in ["/srv/one,other".into(), format!("{}d", longest.display())] {
            let instead = socket_dir(Path::new(&name));
            assert!(instead.starts_with("/tmp") && instead.as_os_str().len() < 60, "{}", instead.display());
            assert_eq!(instead, socket_dir(Path::new(&name)));
            assert_ne!(instead, socket_dir(&Path::new(&name).join("other")));
        }
    }
}
