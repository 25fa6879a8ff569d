//! The PostgreSQL server of a scenario, which may stop it, freeze it and kill its backends.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use receiptd::embedded::{EmbeddedPostgres, Options};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::task::block_in_place;

use crate::{
    common::ScratchDirectory,
    postgres::{Postgres, as_owner},
    signals::Frozen,
    wall::Wall,
};

/// The server trusts everybody who reaches its socket; the password is there to be searched for where it must not be.
pub const PASSWORD: &str = "canary-7d20-database-password";

pub struct Server {
    postgres: Option<EmbeddedPostgres>,
    /// Instead: a server that the scenario has started itself.
    own: Option<Postgres>,
    options: Options,
}

impl Server {
    pub fn start(directory: &Path) -> Self {
        let mut options = Options::new(directory.join("postgres"));
        block_in_place(|| copy(pristine(), &options.data_dir));
        // The machine never crashes in a scenario, only processes do. So written data is safe without fsync, but a
        // commit has to write it: synchronous_commit stays on.
        let settings = [("fsync", "off"), ("full_page_writes", "off"), ("shared_buffers", "32MB")];
        options.settings = settings.map(|(name, value)| (name.into(), value.into())).into();
        let mut server = Self { postgres: None, own: None, options };
        server.start_again();
        server
    }

    /// The same with its own clock.
    pub fn by_clock(directory: &Path, wall: &Wall) -> Self {
        let mut server = Self::start(directory);
        let programs = server.programs();
        server.stop();
        let settings = server.options.settings.iter().map(|(name, value)| (&**name, &**value)).collect::<Vec<_>>();
        let own = block_in_place(|| Postgres::start(&programs, &server.cluster(), &wall.variables(), &settings));
        server.own = Some(own);
        server
    }

    /// A standby of this server, which follows it and answers queries.
    pub fn standby(&self, directory: &Path) -> Postgres {
        let (home, programs) = (directory.join("standby"), self.programs());
        fs::create_dir(&home).unwrap();
        let owner = fs::metadata(self.cluster()).unwrap();
        chown(&home, Some(owner.uid()), Some(owner.gid())).unwrap();
        let mut copy = as_owner(&self.cluster(), &programs.join("pg_basebackup"));
        copy.args(["-U", "postgres", "--write-recovery-conf", "--checkpoint=fast", "--host"]).arg(self.socket_dir());
        let cluster = home.join("cluster");
        assert!(block_in_place(|| copy.arg("--pgdata").arg(&cluster).status()).unwrap().success());
        block_in_place(|| Postgres::start(&programs, &cluster, &[], &[("fsync", "off"), ("shared_buffers", "32MB")]))
    }

    pub fn start_again(&mut self) {
        self.postgres = Some(block_in_place(|| EmbeddedPostgres::start(&self.options)).unwrap());
    }

    pub fn stop(&mut self) {
        block_in_place(|| self.postgres.take().unwrap().stop()).unwrap();
    }

    fn cluster(&self) -> PathBuf {
        self.options.data_dir.join("cluster")
    }

    fn pid(&self) -> u32 {
        let pid_file = fs::read_to_string(self.cluster().join("postmaster.pid")).unwrap();
        pid_file.lines().next().unwrap().parse().unwrap()
    }

    /// The directory of the server's program, and of the others of its version.
    fn programs(&self) -> PathBuf {
        let program = fs::read_link(format!("/proc/{}/exe", self.pid())).unwrap();
        program.parent().unwrap().into()
    }

    /// Stops the server's processes until the value is dropped: connections stay open and nothing answers.
    pub fn freeze(&self) -> Frozen {
        Frozen::with_children(self.pid())
    }

    pub fn url(&self, database: &str) -> String {
        url_at(self.socket_dir(), database)
    }

    pub fn socket_dir(&self) -> &Path {
        match (&self.own, &self.postgres) {
            (Some(own), _) => own.socket_dir(),
            (None, postgres) => postgres.as_ref().unwrap().socket_dir(),
        }
    }

    /// The test's own connections to a database, made when they are needed and again after they were lost.
    pub fn pool(&self, database: &str) -> PgPool {
        let options = PgPoolOptions::new().max_connections(3).acquire_timeout(Duration::from_secs(5));
        options.connect_lazy(&self.url(database)).unwrap()
    }
}

/// The data directory of a server that was only just initialized: made once, since that takes a second of a processor.
fn pristine() -> &'static Path {
    static PRISTINE: OnceLock<ScratchDirectory> = OnceLock::new();
    let make = || {
        let directory = ScratchDirectory::new("pristine");
        EmbeddedPostgres::start(&Options::new(directory.path().join("postgres"))).unwrap().stop().unwrap();
        directory
    };
    PRISTINE.get_or_init(make).path()
}

/// Copies the data directory with its owner and modes.
fn copy(pristine: &Path, data_dir: &Path) {
    assert!(Command::new("cp").arg("-a").arg(pristine.join("postgres")).arg(data_dir).status().unwrap().success());
}

/// The URL of a database of the server with this socket.
pub fn url_at(socket_dir: &Path, database: &str) -> String {
    let directory = socket_dir.to_str().unwrap().replace('/', "%2F");
    format!("postgres://postgres:{PASSWORD}@localhost:5432/{database}?host={directory}&sslmode=disable")
}

/// Name and uid of the account that root's server runs as, selected by the library: `postgres`, or else `nobody`.
pub fn account() -> (String, u32) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        Some((name.to_owned(), line.split(':').nth(2)?.parse().ok()?))
    };
    find("postgres").or(find("nobody")).unwrap()
}
