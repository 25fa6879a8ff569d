use proptest::prelude::*;

use super::*;
use crate::domain::{GroupId, Labels, MsgSeq};

fn now() -> Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

/// Lines with their numbers, and errors as text.
type Told = Vec<(u64, Result<WatchLine, String>)>;

/// What can be read, or why it can't.
fn try_read(text: &[u8]) -> Result<Told, String> {
    let mut lines = Lines::new(text, now());
    let mut read = Vec::new();
    while let Some((number, line)) = lines.next_line().map_err(|error| error.to_string())? {
        read.push((number, line.map_err(|error| error.to_string())));
    }
    assert_eq!(lines.bytes(), text.len() as u64);
    Ok(read)
}

fn read(text: &[u8]) -> Told {
    try_read(text).unwrap()
}

fn line(group: &str, seq: i64, sent_at: Option<&str>) -> WatchLine {
    let sent_at = sent_at.map(|text| text.parse().unwrap());
    WatchLine { group: group.parse().unwrap(), seq: MsgSeq::try_from(seq).unwrap(), sent_at, labels: Labels::default() }
}

fn good(text: &str) -> Vec<WatchLine> {
    read(text.as_bytes())
        .into_iter()
        .map(|(number, line)| line.unwrap_or_else(|error| panic!("{number}: {error}")))
        .collect()
}

#[test]
fn lines_with_and_without_a_time_are_read() {
    let expected = [line("@TGS#1", 7, Some("2026-11-23T08:00:00Z")), line("a, b", 8, None), line("c", 9, None)];
    assert_eq!(good("@TGS#1,7,2026-11-23T08:00:00Z\r\n\"a, b\",8\n\n  \nc, 9 ,\n"), expected);
    assert_eq!(good("g,1,1763884800"), [line("g", 1, Some("2025-11-23T08:00:00Z"))], "seconds since 1970");
    assert_eq!(good("g,1,2026-11-23T16:00:00+08:00"), [line("g", 1, Some("2026-11-23T08:00:00Z"))]);
    for (written, meant) in [
        ("2026-11-25 10:00:00+00", "2026-11-25T10:00:00Z"),
        ("2026-11-25 10:00:00.123456+00", "2026-11-25T10:00:00.123456Z"),
        ("2026-11-25 10:00:00-03", "2026-11-25T13:00:00Z"),
        ("2026-11-25 10:00:00+05:30", "2026-11-25T04:30:00Z"),
    ] {
        assert_eq!(good(&format!("g,1,{written}")), [line("g", 1, Some(meant))], "as PostgreSQL writes {written}");
    }
}

#[test]
fn a_first_line_that_names_the_columns_sets_their_order() {
    let expected = [line("g", 3, Some("2026-11-23T08:00:00Z"))];
    assert_eq!(good("\u{feff}Sent_At,note,MSG_SEQ,group_id\n2026-11-23T08:00:00Z,hi,3,g\n"), expected);
    assert_eq!(good("group_id,msg_seq\ng,1\n"), [line("g", 1, None)]);
}

#[test]
fn columns_of_labels_are_read_by_their_names() {
    let read = good("group_id,Label.Campaign,msg_seq,label.my arm,labels\ng,spring,1, B ,x\ng,,2,,\n");
    let labels: Vec<Option<String>> = read.iter().map(|line| line.labels.json()).collect();
    assert_eq!(labels, [Some(r#"{"Campaign":"spring","my arm":"B"}"#.to_owned()), None]);
    for (names, why) in
        [("group_id,msg_seq,label.", "has 0 characters"), ("group_id,msg_seq,label.a,label.a", "names a column twice")]
    {
        let error = try_read(format!("{names}\n").as_bytes()).unwrap_err();
        assert!(error.contains(why), "{names}: {error}");
    }
    let bad = &self::read(format!("group_id,msg_seq,label.a\ng,1,{}\n", "x".repeat(3000)).as_bytes())[0].1;
    assert!(bad.as_ref().is_err_and(|error| error.contains("bytes of JSON")), "{bad:?}");
}

#[test]
fn a_bad_line_is_reported_with_number_and_reason_and_skipped() {
    let long = format!("{},1", "g".repeat(10_000));
    let cases: [(&[u8], &str); 12] = [
        (b" \"g\",1", "blank before a quote"),
        (b"g", "has 1 fields"),
        (b"g,1,2,3", "has 4 fields"),
        (b"g,x", "message seq \"x\""),
        (b"g,0", "message seq \"0\""),
        (b"g,4294967296", "message seq"),
        (b"@TGS#_c,1", "a Community"),
        (b"x@TOPIC#_1,1", "a topic of a Community"),
        (b"g,1,yesterday", "neither RFC 3339"),
        (b"g,1,1763884800000", "between the years 2000 and 2200"),
        (b"\xff\xfe,1", "not UTF-8"),
        (b"\"g,1", "quoted field without a closing quote"),
    ];
    for (bad, reason) in cases.into_iter().chain([(long.as_bytes(), "longer than 4096 bytes")]) {
        let text = [b"a,1\n", bad, b"\nb,2\n"].concat();
        let read = read(&text);
        assert_eq!(read.len(), 3, "{}", String::from_utf8_lossy(bad));
        assert_eq!((&read[0], &read[2]), (&(1, Ok(line("a", 1, None))), &(3, Ok(line("b", 2, None)))));
        let (number, error) = (read[1].0, read[1].1.clone().unwrap_err());
        assert!(number == 2 && error.contains(reason), "{number}: {error}");
    }
}

#[test]
fn every_kind_of_line_end_ends_a_line() {
    let expected = [line("a", 1, None), line("a", 2, None), line("b", 3, None)];
    for text in ["a,1\na,2\nb,3\n", "a,1\ra,2\rb,3", "a,1\r\na,2\r\nb,3\r\n", "a,1\r\r\na,2\n\rb,3\r"] {
        assert_eq!(good(text), expected, "{text:?}");
    }
    let numbers: Vec<u64> = read(b"a,1\r\n\r\na,2\r\ra,3\n").into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, [1, 3, 5]);
}

#[test]
fn a_blank_before_a_quote_is_bad_only_outside_of_quotes() {
    for (line, is_bad) in [
        (r#" "g",1"#, true),
        (r#"g, "1""#, true),
        (r#""a,b", "1""#, true),
        (r#"" """,1"#, false),
        (r#""a ""b"", ""c",1"#, false),
        (r#"5" b "c,1"#, false),
        ("", false),
    ] {
        assert_eq!(has_blank_before_quote(line.as_bytes()), is_bad, "{line}");
    }
}

#[test]
fn column_names_ignore_case_blanks_and_leading_empty_lines() {
    let expected = [line("10086", 101, None)];
    for names in [
        "msg_seq, group_id",
        "\n  \nMSG_SEQ,Group_ID",
        "MsgSeq,GroupId",
        "msg-seq , \"group id\"",
        "\u{feff}\nmsg_seq,group_id",
    ] {
        assert_eq!(good(&format!("{names}\n101, 10086\n")), expected, "{names:?}");
    }
}

#[test]
fn what_is_no_watch_list_is_refused_at_its_first_line() {
    let cases: [(&[u8], &str); 17] = [
        (b"group_id,time\ng,1\n", "line 1: the header has no column msg_seq"),
        (b"\nmsg_seq,note\n1,g\n", "line 2: the header has no column group_id"),
        (b"sent_at\n", "no column group_id"),
        (b"group_id,msg_seq,group_id\n", "names a column twice"),
        (b"group,seq\ng,1\n", "neither a message"),
        (b"g,x\ng,1\n", "neither a message"),
        (b"g\ng,1\n", "neither a message"),
        (b"g,1,2026-11-23T08:00:00Z,note\n", "neither a message"),
        (b"group_id;msg_seq\ng;1\n", "separated by semicolons (;)"),
        (b"g;1\n", "separated by semicolons (;)"),
        (b"a;1,2\n", "message 2 of the group \"a;1\", but the fields may be separated by semicolons (;)"),
        (b"a; 1;1700000000,5\n", "but the fields may be separated by semicolons (;)"),
        (b"a|1,2\n", "but the fields may be separated by bars (|)"),
        (b"group_id\tmsg_seq\n", "separated by tabs"),
        (b"\xff\xfeg\0,\x001\0\n\0", "UTF-16"),
        (b"\0g\0,\x001\0\n", "UTF-16"),
        (b"PK\x03\x04\0\0", "UTF-16 or not text at all"),
    ];
    for (text, expected) in cases {
        let error = try_read(text).expect_err(&String::from_utf8_lossy(text));
        assert!(error.contains(expected), "{}: {error}", String::from_utf8_lossy(text));
    }
}

#[test]
fn column_names_or_quotes_allow_separators_in_a_group_id() {
    let expected = [line("a;1", 2, None)];
    assert_eq!(good("group_id,msg_seq\na;1,2\n"), expected);
    assert_eq!(good("\"a;1\",2\n"), expected);
    assert_eq!(good("a;b,2\n"), [line("a;b", 2, None)]);
}

#[test]
fn a_bad_first_line_is_reported_and_the_rest_is_read() {
    let read = read(b"@TGS#_c,1\ng,2\n");
    assert!(read[0].1.as_ref().unwrap_err().contains("a Community"));
    assert_eq!(read[1], (2, Ok(line("g", 2, None))));
}

#[test]
fn a_time_more_than_a_day_ahead_is_bad() {
    let read = read(b"g,1,2026-11-26T11:00:00Z\ng,2,2026-11-26T13:00:00Z\ng,3,2199-01-01T00:00:00Z\n");
    assert!(read[0].1.is_ok());
    assert!(read[1..].iter().all(|(_, line)| line.as_ref().is_err_and(|error| error.contains("a day in the future"))));
}

proptest! {
    #[test]
    fn any_bytes_are_read_to_the_end(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r'), Just(b','), Just(b'"')], 0..300)) {
        let text = [b"a,1\n".as_slice(), &bytes].concat();
        let ends = text.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() as u64;
        let mut last = 0;
        for (number, _) in read(&text) {
            prop_assert!(number > last && number <= 1 + ends);
            last = number;
        }
        _ = try_read(&bytes);
    }

    #[test]
    fn no_line_is_lost_however_lines_end(
        seqs in proptest::collection::vec((1..1_000_000_i64, prop_oneof![Just("\n"), Just("\r"), Just("\r\n"), Just("\n\n")]), 1..40),
        capacity in 1..20_usize,
    ) {
        let text: String = seqs.iter().map(|(seq, end)| format!("g,{seq}{end}")).collect();
        let mut lines = Lines::new(std::io::BufReader::with_capacity(capacity, text.as_bytes()), now());
        for (seq, _) in &seqs {
            let (_, read) = lines.next_line().unwrap().unwrap();
            prop_assert_eq!(i64::from(read.unwrap().seq.get()), *seq);
        }
        prop_assert!(lines.next_line().unwrap().is_none());
    }

    #[test]
    fn what_is_written_as_csv_is_read_again(groups in proptest::collection::vec("[ -~]{1,47}", 1..20)) {
        let groups: Vec<GroupId> = groups.iter().filter_map(|group| group.parse().ok()).collect();
        let text: String = groups.iter().map(|group| format!("\"{}\",5\n", group.as_str().replace('"', "\"\""))).collect();
        prop_assert_eq!(good(&text).into_iter().map(|line| line.group).collect::<Vec<_>>(), groups);
    }
}
