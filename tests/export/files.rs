//! Files and pipes: parts, links, permissions, memory, and readers that stop or are slow.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};

use crate::{
    add_snapshots, command,
    common::{ScratchDirectory, TestDatabase},
    ended, export, read_back, seeded,
};

#[tokio::test]
async fn a_failed_export_leaves_no_file_and_a_killed_one_restarts() {
    let database = seeded().await;
    let directory = ScratchDirectory::new("export");
    let path = directory.path().join("snapshots.csv");
    let file = path.to_str().unwrap();
    // The row of the third day can't be read.
    database.psql(
        "CREATE OR REPLACE VIEW receiptd.receipt_history AS
         SELECT g.sdk_app_id, g.group_id, h.msg_seq, h.polled_at, h.read_num, h.unread_num, h.code, h.prior_polled_at,
            (1 / (h.msg_seq - 4294967295))::integer AS prior_read_num, 'poll'::text AS source, h.group_key,
            NULL::jsonb AS labels, NULL::jsonb AS group_labels
         FROM receiptd.receipt_snapshots h JOIN receiptd.watched_groups g USING (group_key)",
    );
    let output = export(&database, &["snapshots", "--output", file]);
    let (code, _, err) = ended(&output);
    assert!(code == 69 && err.contains("division by zero"), "{code} {err}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);

    fs::write(directory.path().join("snapshots.csv.part"), "x".repeat(100_000)).unwrap();
    let output = export(&database, &["snapshots", "--to", "2026-11-02", "--output", file]);
    assert_eq!(ended(&output), (0, "", "Exported 4 rows.\n"));
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 5);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & !0o640, 0, "{mode:o}: it must not be accessible for everybody");

    let nowhere = directory.path().join("nowhere/x.csv");
    let output = export(&database, &["snapshots", "--output", nowhere.to_str().unwrap()]);
    assert!(ended(&output).2.contains("nowhere/x.csv.part failed"), "{}", ended(&output).2);
}

#[tokio::test]
async fn a_large_export_takes_little_memory_and_readers_may_stop() {
    let database = seeded().await;
    add_snapshots(&database, 300_000);
    let directory = ScratchDirectory::new("export");
    for format in ["csv", "parquet"] {
        let path = directory.path().join(format);
        let arguments = ["export", "snapshots", "--format", format, "--output", path.to_str().unwrap()];
        let mut child = command(&database, &arguments).stderr(Stdio::piped()).spawn().unwrap();
        let mut peak = 0;
        while child.try_wait().unwrap().is_none() {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            peak = line.map_or(peak, |line| line.trim().trim_end_matches(" kB").parse::<u64>().unwrap());
            thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(ended(&output), (0, "", "Exported 300,008 rows.\n"));
        println!("{format}: {peak} kB at most, a file of {} kB", fs::metadata(&path).unwrap().len() / 1024);
        assert!((1_000..100_000).contains(&peak), "{format} took {peak} kB");
    }
    assert_eq!(read_back(&directory.path().join("parquet")), fs::read_to_string(directory.path().join("csv")).unwrap());
    for format in ["csv", "parquet"] {
        let mut export = command(&database, &["export", "snapshots", "--format", format]);
        let mut child = export.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut read = BufReader::new(child.stdout.take().unwrap());
        read.fill_buf().unwrap();
        drop(read);
        assert_eq!(ended(&child.wait_with_output().unwrap()), (0, "", ""), "{format}");
    }
}

#[tokio::test]
async fn whoever_reads_slowly_gets_everything() {
    let database = seeded().await;
    // The server has sent them long before the reader is done, and would end an idle transaction.
    add_snapshots(&database, 10_000);
    let mut child = command(&database, &["export", "snapshots"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    thread::sleep(Duration::from_secs(7));
    assert_eq!(lines.map(Result::unwrap).count(), 10_008);
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn a_part_that_is_a_link_is_not_written_through() {
    let (database, directory) = (TestDatabase::new().await, ScratchDirectory::new("link"));
    assert_eq!(command(&database, &["migrate"]).output().unwrap().status.code(), Some(0));
    let (file, precious) = (directory.path().join("rows.csv"), directory.path().join("precious"));
    let part = directory.path().join("rows.csv.part");
    fs::write(&precious, "keep this").unwrap();
    for link in [|from: &Path, to: &Path| symlink(from, to), |from: &Path, to: &Path| fs::hard_link(from, to)] {
        link(&precious, &part).unwrap();
        let output = export(&database, &["snapshots", "--output", file.to_str().unwrap()]);
        let (code, _, err) = ended(&output);
        assert!(code == 70 && err.contains("rows.csv.part"), "{code} {err}");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "keep this");
        assert!(part.symlink_metadata().is_ok() && !file.exists());
        fs::remove_file(&part).unwrap();
    }
}
