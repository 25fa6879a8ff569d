//! The disk of the tables is full for a while: a small file system of the scenario.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    common::ScratchDirectory,
    harness::{Harness, Setup, seconds},
    oracle::{Breakage, Promises},
    server::account,
};

/// The place of the small file system, for the test's second process.
const SMALL_DISK: &str = "RECEIPTD_CHAOS_SMALL_DISK";
const NAME: &str = "disk::a_disk_that_is_full_for_a_while_costs_no_receipt";

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_for_a_while_costs_no_receipt() {
    match std::env::var_os(SMALL_DISK) {
        Some(disk) => fill_and_free(Path::new(&disk)).await,
        None => tokio::task::block_in_place(beside_a_small_disk),
    }
}

/// Runs the same test in its own mount namespace with a small file system, which only it and its children see. So the
/// file system is gone with the test, however it ends. Without root, a user namespace gives the right to mount, and a
/// second one in it restores the account.
fn beside_a_small_disk() {
    let directory = ScratchDirectory::new("disk");
    let own = fs::metadata("/proc/self").unwrap();
    let (rights, account) = match own.uid() {
        0 => (String::new(), String::new()),
        uid => {
            ("--user --map-root-user".to_owned(), format!("unshare --user --map-user={uid} --map-group={}", own.gid()))
        }
    };
    let script = format!(
        r#"exec setpriv --pdeathsig KILL unshare {rights} --mount sh -c '
            mount -t tmpfs -o size=48m,mode=755 small "${SMALL_DISK}" && exec {account} "$@"' sh "$@""#
    );
    let mut test = Command::new("sh");
    test.args(["-c", &script, "sh"]).arg(std::env::current_exe().unwrap());
    test.args(["--exact", NAME, "--nocapture"]).env(SMALL_DISK, directory.path()).stdin(Stdio::null());
    let output = test.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

async fn fill_and_free(disk: &Path) {
    let directory = ScratchDirectory::new("full");
    let tablespace = disk.join("tables");
    fs::create_dir(&tablespace).unwrap();
    fs::set_permissions(&tablespace, PermissionsExt::from_mode(0o700)).unwrap();
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        chown(&tablespace, Some(account().1), None).unwrap();
    }
    let mut scene = Harness::with(directory, Setup { tablespace: Some(&tablespace), ..Setup::default() }).await;
    let fault = Breakage::begins(&scene);
    let filler = disk.join("filler");
    fill(&filler);
    scene.lasts(seconds(8)).await;
    fs::remove_file(&filler).unwrap();
    fault.ends(scene, Promises::saying("No space left")).await;
}

/// Writes until there is no room for another page.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let page = [0; 4_096];
    while file.write_all(&page).is_ok() {}
}
