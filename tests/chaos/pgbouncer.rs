//! PgBouncer between daemon and server, in transaction mode: each transaction may use another connection of the
//! server.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{
    common::ScratchDirectory,
    harness::{DATABASE, Harness, LIMIT, Setup, seconds},
    oracle::{Breakage, Promises},
    server::{PASSWORD, Server, account},
    signals,
};

/// Its treatment of unknown startup parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameters {
    /// As docs/operators.md requires.
    Dropped,
    Refused,
}

/// A scenario's PgBouncer, which is killed when this value is dropped.
pub struct PgBouncer {
    child: Child,
    address: SocketAddr,
}

impl PgBouncer {
    /// Listens on `address` in front of the server, with few connections for many clients.
    pub fn start(server: &Server, directory: &Path, address: SocketAddr, parameters: Parameters) -> Self {
        let config = directory.join("pgbouncer.ini");
        let (host, socket) = (address.ip(), server.socket_dir());
        let ignored = match parameters {
            Parameters::Dropped => "extra_float_digits, options",
            Parameters::Refused => "extra_float_digits",
        };
        // The settings in docs/operators.md; the rest is its address and its users.
        let settings = format!(
            "[databases]\n{DATABASE} = host={} port=5432 user=postgres\n\
             [pgbouncer]\npool_mode = transaction\nignore_startup_parameters = {ignored}\n\
             listen_addr = {host}\nlisten_port = {}\nunix_socket_dir =\nauth_type = any\n\
             default_pool_size = 3\nserver_login_retry = 1\n",
            socket.display(),
            address.port()
        );
        fs::write(&config, settings).unwrap();
        let said = File::create(directory.join("pgbouncer-said")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "pgbouncer"]);
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            // It refuses to run as root, and reaches the server's socket as the server's account.
            command.args(["-u", &account().0]);
        }
        command.arg(&config).stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
        Self { child: command.spawn().unwrap(), address }
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres:{PASSWORD}@{}/{DATABASE}", self.address)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        signals::send("KILL", &[self.child.id()]);
        _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pgbouncer_that_is_gone_for_a_while_costs_no_receipt() {
    let setup = Setup { pgbouncer: Some(Parameters::Dropped), ..Setup::default() };
    let mut scene = Harness::with(ScratchDirectory::new("bouncer"), setup).await;
    let fault = Breakage::begins(&scene);
    drop(scene.pgbouncer.take());
    scene.lasts(seconds(6)).await;
    scene.start_pgbouncer();
    fault.ends(scene, Promises::default()).await;
}

/// At full load several transactions run at once, so that each soon gets another connection of the server.
#[tokio::test(flavor = "multi_thread")]
async fn statements_have_no_names_behind_any_pgbouncer() {
    for parameters in [Parameters::Dropped, Parameters::Refused] {
        let setup = Setup { pgbouncer: Some(parameters), ..Setup::default() };
        let scene = Harness::with(ScratchDirectory::new("nameless"), setup).await;
        let said = scene.daemon.said();
        assert!(said.contains("there is a proxy in front of the database"), "{said}");
        let fault = Breakage::begins(&scene);
        scene.after_calls(4 * u64::from(LIMIT)).await;
        fault.ends(scene, Promises::silently()).await;
    }
}
