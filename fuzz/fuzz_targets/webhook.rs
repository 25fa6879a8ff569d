//! Any webhook: the first line is the query, the rest the body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use receiptd::{
    domain::{SdkAppId, Timestamp},
    rules::webhooks::{Event, Refusal, Request, Secrets, signature},
};

const TIME: i64 = 1_669_872_112;

fuzz_target!(|input: &[u8]| {
    let place = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (query, body) = input.split_at(place);
    if let Ok(query) = std::str::from_utf8(query) {
        check_query(query);
    }
    check_body(body.get(1..).unwrap_or_default());
});

fn check_query(query: &str) {
    let secrets = Secrets {
        sdk_app_id: SdkAppId::try_from(1_400_000_000).unwrap(),
        path: "/path".into(),
        tokens: vec!["xxxxyyyy".into()],
    };
    let verify =
        |path| Request { is_post: true, path, query }.verify(&secrets, Timestamp::from_timestamp(TIME, 0).unwrap());
    assert_eq!(verify("/other"), Err(Refusal::Path));
    if verify("/path").is_ok() {
        let signed =
            (TIME - 60..=TIME + 60).any(|time| query.contains(&signature(&secrets.tokens[0], &time.to_string())));
        assert!(signed, "no signature, no entry: {query}");
        assert!(query.contains("1400000000"));
    }
}

fn check_body(body: &[u8]) {
    let Ok(event) = Event::read(body, |_| true) else { return };
    assert!(body.trim_ascii_start().starts_with(b"{"), "only an object is an event");
    match event {
        Event::Receipts(receipts) => {
            assert!(receipts.entries.len() <= 100);
            assert!(receipts.entries.iter().all(|entry| entry.members.accounts().len() <= 200));
            let counts = receipts.entries.iter().map(|entry| entry.counts);
            assert!(counts.into_iter().all(|counts| counts.read() <= 200 && counts.unread() <= 200));
        }
        Event::Recalled { seqs, .. } => assert!(seqs.len() <= 100),
        _ => {}
    }
}
