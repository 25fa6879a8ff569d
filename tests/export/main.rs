//! `receiptd export` from its users' view: the real binary, a real PostgreSQL, and files read back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod files;

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Output, Stdio},
};

use common::{ScratchDirectory, TestDatabase};
use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
};

/// Two apps, a little more than two days, and every column with and without a value.
const ROWS: &str = r#"
    SELECT receiptd.ensure_partition('receipt_snapshots', day::date)
    FROM generate_series(timestamp '2026-11-01', '2026-11-03', '1 day') AS day;
    INSERT INTO receiptd.watched_groups (sdk_app_id, group_id)
    VALUES (1400000000, 'b'), (1400000000, 'a "quoted", one'), (1400000001, 'other');
    INSERT INTO receiptd.receipt_snapshots
        (group_key, msg_seq, polled_at, read_num, unread_num, code, prior_polled_at, prior_read_num, is_webhook)
    SELECT g.group_key, r.* FROM receiptd.watched_groups g, (VALUES
        (7, timestamptz '2026-11-01 00:00:00+00', 0, 3, 0, NULL::timestamptz, NULL::integer, false),
        (7, '2026-11-01 23:59:59.999999+00', 1, 2, 0, '2026-11-01 23:58:59.5+00', 0, false),
        (7, '2026-11-02 00:00:00+00', 3, 0, 0, '2026-11-01 23:59:59.999999+00', 1, true),
        (4294967295, '2026-11-03 12:00:00+00', NULL, NULL, 10062, NULL, NULL, false)
    ) AS r;
    INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at, state, closed_at, read_num, unread_num, receipt_code,
        first_polled_at, last_changed_at, known_until, first_read_after, first_read_by, half_read_after, half_read_by,
        p90_read_after, p90_read_by, all_read_after, all_read_by, read_15m, unread_15m, read_1h, unread_1h, read_24h,
        unread_24h, read_7d, unread_7d)
    SELECT group_key, 7, '2026-11-01 10:00:00.25+00', 'all_read', '2026-11-09 12:00+00', 3, 0, 0, '2026-11-01 10:01+00',
        '2026-11-09 11:00+00', '2026-11-09 11:59+00', '2026-11-01 10:02+00', '2026-11-01 10:03+00',
        '2026-11-01 10:04+00', '2026-11-01 10:05+00', '2026-11-01 10:06+00', '2026-11-01 10:07+00',
        '2026-11-01 10:08+00', '2026-11-01 10:09+00', 0, 3, 1, 2, 3, 0, 1, 9 FROM receiptd.watched_groups;
    INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at)
    SELECT group_key, 8, '2026-11-02 10:00+00' FROM receiptd.watched_groups;
    INSERT INTO receiptd.group_receipts_hourly (group_key, hour, messages_sent, messages_active, reads_gained, reads_lost,
        reads_found, messages_aged_24h, median_read_rate_24h, p90_read_rate_24h, unread_backlog, polls, calls, coverage)
    SELECT group_key, '2026-11-01 10:00+00', 1, 2, 3000000000, 4, 5, 6, 0.5, 0.9, 7, 8, 9, 0.25
    FROM receiptd.watched_groups;
    INSERT INTO receiptd.group_receipts_hourly (group_key, hour)
    SELECT group_key, '2026-11-02 23:00+00' FROM receiptd.watched_groups;
    UPDATE receiptd.watched_messages SET labels = '{"text": "a \"b\""}' WHERE msg_seq = 7;
    UPDATE receiptd.watched_groups SET labels = '{"branch": "north"}' WHERE group_id = 'b';
"#;

/// The same rows as the database shows them, to compare with the export.
const SHOWN: [(&str, &str); 4] = [
    (
        "snapshots",
        r#"SELECT sdk_app_id, group_id, msg_seq, polled_at, read_num, unread_num, code, prior_polled_at, prior_read_num,
            source FROM receiptd.receipt_history WHERE sdk_app_id = 1400000000
        ORDER BY polled_at::date, group_id COLLATE "C", msg_seq, polled_at"#,
    ),
    (
        "messages",
        r#"SELECT m.sdk_app_id, m.group_id, m.msg_seq, m.labels::text, m.group_labels::text, m.sent_at, m.state, m.closed_at, m.read_num, m.unread_num, m.members, m.read_rate, m.receipt_code,
            m.first_polled_at, m.last_changed_at, m.known_until, m.known_for_s, m.first_read_at_least_s,
            m.first_read_at_most_s, m.first_read_censored, m.half_read_at_least_s, m.half_read_at_most_s, m.half_read_censored,
            m.p80_read_at_least_s, m.p80_read_at_most_s, m.p80_read_censored, m.p90_read_at_least_s, m.p90_read_at_most_s, m.p90_read_censored,
            m.all_read_at_least_s, m.all_read_at_most_s, m.all_read_censored, m.read_15m, m.members_15m, m.read_rate_15m, m.read_1h,
            m.members_1h, m.read_rate_1h, m.read_24h, m.members_24h, m.read_rate_24h, m.read_7d, m.members_7d, m.read_rate_7d,
            m.updated_at
        FROM receiptd.messages m WHERE sdk_app_id = 1400000000 ORDER BY sent_at::date, group_id COLLATE "C", msg_seq"#,
    ),
    (
        "milestones",
        r#"SELECT sdk_app_id, group_id, m.msg_seq, m.sent_at, m.state, closed_at, read_num, unread_num, receipt_code,
            first_polled_at, last_changed_at, known_until, first_read_after, first_read_by, half_read_after, half_read_by,
            p80_read_after, p80_read_by, p90_read_after, p90_read_by, all_read_after, all_read_by, read_rate_15m,
            read_rate_1h, read_rate_24h, read_rate_7d, m.labels::text, m.group_labels::text, m.updated_at
        FROM receiptd.message_milestones m JOIN receiptd.watched_groups g USING (group_key)
        WHERE sdk_app_id = 1400000000 ORDER BY sent_at::date, group_id COLLATE "C", msg_seq"#,
    ),
    (
        "hourly",
        r#"SELECT sdk_app_id, group_id, hour, messages_sent, messages_active, reads_gained, reads_lost, reads_found,
            messages_aged_24h, median_read_rate_24h, p90_read_rate_24h, unread_backlog, polls, calls, coverage,
            reads_carried, updated_at
        FROM receiptd.hourly_receipts WHERE sdk_app_id = 1400000000 ORDER BY hour::date, group_id COLLATE "C""#,
    ),
];

fn command(database: &TestDatabase, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    command.args(arguments).env_clear().env("DATABASE_URL", database.url());
    command.env("RECEIPTD_CHAT__SDK_APP_ID", "1400000000").stdin(Stdio::null());
    command
}

fn ended(output: &Output) -> (i32, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn export(database: &TestDatabase, arguments: &[&str]) -> Output {
    command(database, &[&["export"], arguments].concat()).output().unwrap()
}

async fn seeded() -> TestDatabase {
    let database = TestDatabase::new().await;
    assert_eq!(command(&database, &["migrate"]).output().unwrap().status.code(), Some(0));
    database.psql(ROWS);
    database
}

/// Adds snapshots of separate messages.
fn add_snapshots(database: &TestDatabase, count: u32) {
    database.psql(&format!(
        "INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, read_num, unread_num, code)
         SELECT g.group_key, 100 + i, timestamptz '2026-11-02 01:00+00' + i * interval '1 millisecond', i % 100, 5, 0
         FROM receiptd.watched_groups g, generate_series(1, {count}) AS i WHERE g.group_id = 'b'"
    ));
}

/// What an export must contain, according to the database itself.
fn expected(database: &TestDatabase, sql: &str) -> String {
    let times = r#"SET timezone = 'UTC'; SET datestyle = 'ISO'"#;
    let copied = database.psql(&format!("{times}; COPY ({sql}) TO STDOUT (FORMAT csv, HEADER)"));
    // The database shows times as 2026-11-01 00:00:00+00, with fractions of the second if there are any.
    let field = |field: &str| match field.strip_suffix("+00") {
        Some(time) => {
            let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
            format!("{}.{fraction:0<6}Z", whole.replace(' ', "T"))
        }
        None => field.to_owned(),
    };
    // The database abbreviates t and f. Whole numbers in columns of type double are exported with a digit after the
    // point, which the database omits. From the end, since a group id may contain a comma.
    let names: Vec<&str> = copied.lines().next().unwrap().split(',').rev().collect();
    let is_real = |place: usize| {
        names.get(place).is_some_and(|name| name.contains("rate") || name.ends_with("_s") || *name == "coverage")
    };
    let is_boolean = |place: usize| names.get(place).is_some_and(|name| name.ends_with("_censored"));
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let shown = fields.iter().enumerate().map(|(index, text)| match fields.len() - 1 - index {
            place if is_real(place) && text.parse::<u32>().is_ok() => format!("{text}.0"),
            place if is_boolean(place) && *text == "t" => "true".to_owned(),
            place if is_boolean(place) && *text == "f" => "false".to_owned(),
            _ => field(text),
        });
        shown.collect::<Vec<_>>().join(",") + "\n"
    };
    copied.lines().map(line).collect()
}

#[tokio::test]
async fn csv_says_what_the_database_says() {
    let database = seeded().await;
    for ((dataset, sql), count) in SHOWN.into_iter().zip([8, 4, 4, 4]) {
        let output = export(&database, &[dataset]);
        let (code, out, err) = ended(&output);
        assert_eq!((code, err), (0, format!("Exported {count} rows.\n").as_str()));
        assert_eq!(out, expected(&database, sql));
    }
    let output = export(&database, &["snapshots", "--to", "2026-11-01T12:00:00Z"]);
    let lines: Vec<&str> = ended(&output).1.lines().collect();
    assert_eq!(
        lines,
        [
            "sdk_app_id,group_id,msg_seq,polled_at,read_num,unread_num,code,prior_polled_at,prior_read_num,source",
            "1400000000,\"a \"\"quoted\"\", one\",7,2026-11-01T00:00:00.000000Z,0,3,0,,,poll",
            "1400000000,b,7,2026-11-01T00:00:00.000000Z,0,3,0,,,poll",
        ]
    );
}

#[tokio::test]
async fn the_first_moment_is_in_and_the_last_is_not() {
    let database = seeded().await;
    let rows = |dataset: &str, from: &str, to: &str| {
        let output = export(&database, &[dataset, "--from", from, "--to", to]);
        let (code, out, err) = ended(&output);
        assert_eq!(code, 0, "{err}");
        out.lines().filter(|line| line.contains(",b,")).count()
    };
    assert_eq!(rows("snapshots", "2026-11-01", "2026-11-02"), 2);
    assert_eq!(rows("snapshots", "2026-11-01T00:00:00.000001Z", "2026-11-02T00:00:00.000001Z"), 2);
    assert_eq!(rows("snapshots", "2026-11-01T23:59:59.999999Z", "2026-11-03T12:00:00Z"), 2);
    assert_eq!(rows("snapshots", "2026-11-03", "2026-11-03"), 0);
    assert_eq!(rows("snapshots", "2000-01-01", "2199-01-01"), 4);
    assert_eq!(rows("milestones", "2026-11-01T10:00:00.25Z", "2026-11-02T10:00:00Z"), 1);
    assert_eq!(rows("milestones", "2026-11-01T10:00:00.250001Z", "2199-01-01"), 1);
    assert_eq!(rows("messages", "2026-11-01T10:00:00.25Z", "2026-11-02T10:00:00Z"), 1);
    assert_eq!(rows("messages", "2026-11-01T10:00:00.250001Z", "2199-01-01"), 1);
    assert_eq!(rows("hourly", "2026-11-01T10:00:00Z", "2026-11-01T10:00:00Z"), 0);
    assert_eq!(rows("hourly", "2026-11-01T11:00:00Z", "2026-11-02T23:00:00Z"), 0);
    assert_eq!(rows("hourly", "2026-11-01T18:00:00+08:00", "2026-11-02T23:00:01Z"), 2);
    assert_eq!(rows("hourly", "1h", "0s"), 0, "nothing is that young");
}

#[tokio::test]
async fn only_what_has_changed_since_is_exported_if_that_is_asked_for() {
    let database = seeded().await;
    database.psql(
        "UPDATE receiptd.watched_messages SET updated_at = coalesce(closed_at, '2026-11-03 12:00+00');
         ALTER TABLE receiptd.group_receipts_hourly DISABLE TRIGGER note_update;
         UPDATE receiptd.group_receipts_hourly SET updated_at = hour + interval '3 hours'",
    );
    let rows = |arguments: &[&str]| {
        let output = export(&database, arguments);
        let (code, out, err) = ended(&output);
        assert_eq!(code, 0, "{err}");
        out.lines().filter(|line| line.contains(",b,")).count()
    };
    let since = |dataset: &str, time: &str| rows(&[dataset, "--changed-since", time]);
    assert_eq!(since("snapshots", "2026-11-01T23:59:59.999999Z"), 3);
    assert_eq!(since("snapshots", "2026-11-04"), 0);
    // One was sent long before it last changed.
    for dataset in ["messages", "milestones"] {
        assert_eq!(since(dataset, "2026-11-03T12:00:00Z"), 2);
        assert_eq!(since(dataset, "2026-11-09T12:00:00Z"), 1);
        assert_eq!(since(dataset, "2026-11-09T12:00:01Z"), 0);
        assert_eq!(rows(&[dataset, "--changed-since", "2026-11-03", "--from", "2026-11-02"]), 1);
    }
    assert_eq!(since("hourly", "2026-11-01T13:00:00Z"), 2);
    assert_eq!(since("hourly", "2026-11-01T13:00:01Z"), 1);
}

/// The rows of a Parquet file, as in the CSV of the same data.
fn read_back(path: &Path) -> String {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let schema = reader.metadata().file_metadata().schema();
    let mut text = schema.get_fields().iter().map(|field| field.name()).collect::<Vec<_>>().join(",") + "\n";
    for row in reader.get_row_iter(None).unwrap() {
        let row = row.unwrap();
        let fields = row.get_column_iter().map(|(_, field)| match field {
            Field::Null => String::new(),
            Field::Bool(value) => value.to_string(),
            Field::Str(value) if value.contains('"') => format!("\"{}\"", value.replace('"', "\"\"")),
            Field::Str(value) => value.clone(),
            Field::Int(value) => value.to_string(),
            Field::Long(value) => value.to_string(),
            Field::Double(value) => format!("{value:?}"),
            Field::TimestampMicros(value) => {
                let time = chrono::DateTime::from_timestamp_micros(*value).unwrap();
                time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
            }
            other => panic!("no column is of this kind: {other:?}"),
        });
        text += &(fields.collect::<Vec<_>>().join(",") + "\n");
    }
    text
}

#[tokio::test]
async fn parquet_says_the_same_in_a_file_and_on_standard_output() {
    let database = seeded().await;
    let directory = ScratchDirectory::new("export");
    for (dataset, sql) in SHOWN {
        let path = directory.path().join(format!("{dataset}.parquet"));
        let file = path.to_str().unwrap();
        let output = export(&database, &[dataset, "--format", "parquet", "--output", file]);
        assert_eq!(ended(&output).0, 0, "{}", ended(&output).2);
        assert_eq!(read_back(&path), expected(&database, sql));
        let output = export(&database, &[dataset, "--format", "parquet"]);
        assert!(output.stdout == fs::read(&path).unwrap());
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), SHOWN.len(), "no parts are left");
}

#[tokio::test]
async fn no_rows_make_a_whole_file_all_the_same() {
    let database = TestDatabase::new().await;
    assert_eq!(command(&database, &["migrate"]).output().unwrap().status.code(), Some(0));
    let directory = ScratchDirectory::new("export");
    for (dataset, sql) in SHOWN {
        assert_eq!(ended(&export(&database, &[dataset])).1, expected(&database, sql));
        let path = directory.path().join(dataset);
        let output = export(&database, &[dataset, "--format", "parquet", "--output", path.to_str().unwrap()]);
        assert_eq!(ended(&output), (0, "", "Exported 0 rows.\n"));
        assert_eq!(read_back(&path), expected(&database, sql));
    }
}

#[tokio::test]
async fn what_can_not_be_meant_is_refused() {
    let database = seeded().await;
    let directory = ScratchDirectory::new("export");
    let path = directory.path().join("old.csv");
    fs::write(&path, "precious").unwrap();
    let file = path.to_str().unwrap();
    for (arguments, reason) in [
        (&["hourly", "--from", "2026-11-02", "--to", "2026-11-01"][..], "is later than --to"),
        (&["hourly", "--from", "2199-01-01"], "is later than --to"),
        (&["hourly", "--from", "yesterday"], "an age such as 30d"),
        (&["hourly", "--output", file], "exists already and is not overwritten"),
        (&["daily"], "snapshots, messages, milestones, hourly"),
        (&["hourly", "--format", "xml"], "csv, parquet"),
    ] {
        let output = export(&database, arguments);
        let (code, out, err) = ended(&output);
        assert!(code == 64 && out.is_empty() && err.contains(reason), "{arguments:?}: {code} {err}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_database_without_the_schema_says_what_to_do() {
    let database = TestDatabase::new().await;
    for (dataset, _) in SHOWN {
        let output = export(&database, &[dataset]);
        let (code, out, err) = ended(&output);
        assert!(code == 78 && out.is_empty() && err.contains("run `receiptd migrate` first"), "{code} {err}");
    }
}

#[tokio::test]
async fn for_spreadsheets_no_text_is_a_formula() {
    let database = TestDatabase::new().await;
    assert_eq!(command(&database, &["migrate"]).output().unwrap().status.code(), Some(0));
    database.psql(
        "INSERT INTO receiptd.watched_groups (sdk_app_id, group_id)
         VALUES (1400000000, '@TGS#1'), (1400000000, '=1+1'), (1400000000, 'plain');
         INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at, first_polled_at, last_changed_at, known_until, read_1h, unread_1h)
         SELECT group_key, 1, t, t + interval '2 hours', t + interval '2 hours', t + interval '2 hours', 3, 0
         FROM receiptd.watched_groups, (SELECT timestamptz '2026-11-01 10:00+00' AS t) AS sent",
    );
    let lines = |arguments: &[&str]| {
        let output = export(&database, arguments);
        ended(&output).1.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(lines(&["milestones"]), ["=1+1", "@TGS#1", "plain"]);
    assert_eq!(lines(&["milestones", "--spreadsheet"]), ["'=1+1", "'@TGS#1", "plain"]);
    let output = export(&database, &["milestones"]);
    assert!(ended(&output).1.lines().skip(1).all(|line| line.contains(",,1.0,,,,,")), "{}", ended(&output).1);
    let output = export(&database, &["milestones", "--spreadsheet", "--format", "parquet"]);
    assert_eq!(ended(&output).0, 64);
}
