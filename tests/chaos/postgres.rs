//! A PostgreSQL server that a scenario starts itself on an existing cluster, since the library's private server takes
//! neither variables nor a replication role. It is killed at the latest when the thread that started it ends.

use std::{
    ffi::OsString,
    fs,
    os::unix::{fs::MetadataExt, fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{daemon::PATIENCE, signals};

pub struct Postgres {
    child: Child,
    programs: PathBuf,
    cluster: PathBuf,
    socket_dir: PathBuf,
}

impl Postgres {
    /// Starts the server of `programs` on `cluster`, as its owner, and waits until it accepts connections.
    pub fn start(
        programs: &Path,
        cluster: &Path,
        variables: &[(OsString, OsString)],
        settings: &[(&str, &str)],
    ) -> Self {
        let socket_dir = cluster.with_extension("socket");
        fs::create_dir(&socket_dir).unwrap();
        let owner = fs::metadata(cluster).unwrap();
        chown(&socket_dir, Some(owner.uid()), Some(owner.gid())).unwrap();
        let log = fs::File::create(cluster.with_extension("log")).unwrap();
        let mut command = as_owner(cluster, Path::new("setpriv"));
        command.args(["--pdeathsig", "INT"]).arg(programs.join("postgres")).arg("-D").arg(cluster);
        command.arg("-k").arg(&socket_dir).args(["-c", "listen_addresses="]);
        settings.iter().for_each(|(name, value)| _ = command.arg("-c").arg(format!("{name}={value}")));
        command.envs(variables.iter().cloned());
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut server = Self { child, programs: programs.into(), cluster: cluster.into(), socket_dir };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let is_ready = |server: &Self| {
            let mut asked = Command::new(server.programs.join("pg_isready"));
            asked.arg("-q").arg("-h").arg(&server.socket_dir).status().unwrap().success()
        };
        while !is_ready(self) {
            let log = fs::read_to_string(self.cluster.with_extension("log")).unwrap();
            assert!(self.child.try_wait().unwrap().is_none() && Instant::now() < deadline, "no server: {log}");
            sleep(Duration::from_millis(50));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    pub fn stop(&mut self) {
        signals::send("INT", &[self.pid()]);
        self.child.wait().unwrap();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A command that runs as the owner of `cluster`, since PostgreSQL refuses root.
pub fn as_owner(cluster: &Path, program: &Path) -> Command {
    let owner = fs::metadata(cluster).unwrap();
    let mut command = Command::new(program);
    command.uid(owner.uid()).gid(owner.gid()).current_dir(cluster).env("LC_ALL", "C");
    command
}
