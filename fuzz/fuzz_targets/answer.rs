//! Any answer to any call: the first byte is the HTTP status, the second the number of messages asked for, the rest
//! the body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use receiptd::{
    domain::MsgSeq,
    rules::protocol::{Answer, Class, error_class},
};

fuzz_target!(|input: &[u8]| {
    let [status, asked, body @ ..] = input else { return };
    let http_status = if *status == 0 { 200 } else { 100 + u16::from(*status) * 2 };
    let asked: Vec<MsgSeq> = (1..=i64::from(*asked)).map(|seq| MsgSeq::try_from(seq).unwrap()).collect();
    match Answer::read(&asked, http_status, body) {
        Ok(answer) => {
            assert_eq!(http_status, 200);
            assert!(answer.receipts.is_sorted_by(|one, next| one.0 < next.0), "each message once, in order");
            for (seq, receipt) in &answer.receipts {
                assert!(asked.contains(seq), "{seq:?} was not asked for");
                assert!(receipt.counts.is_some() || receipt.code != 0, "success has counts");
                for count in receipt.counts.iter().flat_map(|counts| [counts.read(), counts.unread()]) {
                    assert!(i32::try_from(count).is_ok(), "{count} does not fit into its column");
                }
            }
        }
        Err(failure) => {
            assert_ne!(failure.class, Class::Success);
            assert!(failure.info.chars().count() <= 200 && !failure.info.contains(char::is_control));
            if let Some(code) = failure.code {
                assert!(http_status == 200);
                _ = error_class::remedy(code);
            }
        }
    }
});
