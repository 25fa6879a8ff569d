//! The entries of answers: missing, invalid, unusual, repeated or in another order.

use receiptd::simulator::{BadNumber, Fault, FaultRule, NoList, NumberForm, Numbers, When};

use crate::{
    error_classes::{POLLED, first_calls, polled_in_spite_of},
    harness::Harness,
};

#[tokio::test]
async fn missing_or_bad_entries_cost_only_their_own_message() {
    for fault in [
        Fault::MissingEntries,
        Fault::RepeatedEntries { conflicting: true },
        Fault::OutOfRange { number: BadNumber::Negative },
        Fault::OutOfRange { number: BadNumber::TooLarge },
        Fault::OutOfRange { number: BadNumber::Huge },
        Fault::OutOfRange { number: BadNumber::Null },
        Fault::OutOfRange { number: BadNumber::Text },
        Fault::OutOfRange { number: BadNumber::Implausible },
        Fault::MissingCounts,
    ] {
        let kind = format!("{fault:?}");
        let is_bad = fault != Fault::MissingEntries;
        let mut rig = Harness::new().await;
        rig.fail("g", 2, fault, Some(1));
        rig.watch("g", 1..=3).await;
        rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE read_num IS NOT NULL) = 3").await;
        let (class, answered, bad): (String, i32, i32) = sqlx::query_as(
            "SELECT class, messages_answered, entries_bad FROM receiptd.api_calls ORDER BY called_at LIMIT 1",
        )
        .fetch_one(&rig.pool)
        .await
        .unwrap();
        assert_eq!((class.as_str(), answered, bad > 0), ("incomplete", 2, is_bad), "{kind}");
        let late: bool = rig
            .value("SELECT min(polled_at) FILTER (WHERE msg_seq = 2) > min(polled_at) AND bool_and(prior_polled_at IS NULL) FROM receiptd.receipt_snapshots")
            .await;
        assert!(late, "{kind}: message 2 is known from the second poll on, and has no poll before that");
    }
}

#[tokio::test]
async fn class_incomplete_tells_nothing_and_keeps_to_its_cadence() {
    let mut rig = Harness::new().await;
    rig.fail("g", 1, Fault::MissingEntries, None);
    rig.watch("g", [1]).await;
    rig.until("(SELECT count(*) FROM receiptd.api_calls) >= 3").await;
    assert_eq!(first_calls(&rig, 3).await, "incomplete 0, incomplete 0, incomplete 0");
    let error: String = rig.value("SELECT DISTINCT error FROM receiptd.api_calls").await;
    assert!(error.contains("covered 0 of 1 message"), "{error}");
    assert_eq!(rig.count("receiptd.api_calls WHERE attempt > 1").await, 0, "one call a poll");
    assert_eq!(rig.count("receiptd.poll_slots WHERE failures > 0").await, 0);
    rig.simulator.clear_faults();
    rig.until(POLLED).await;
}

#[tokio::test]
async fn class_incomplete_is_an_answer_without_a_list() {
    for list in [NoList::Absent, NoList::Null, NoList::Empty] {
        let rig = polled_in_spite_of(Fault::NoList { list }, 1).await;
        assert_eq!(first_calls(&rig, 2).await, "incomplete 0, success 0", "{list:?}");
        let error: String = rig.value("SELECT error FROM receiptd.api_calls ORDER BY called_at LIMIT 1").await;
        assert!(error.contains("covered 0 of 3 messages"), "{error}");
    }
}

#[tokio::test]
async fn whole_numbers_are_read_however_they_are_written() {
    for form in [NumberForm::Text, NumberForm::Float] {
        for numbers in [Numbers::Counts, Numbers::All] {
            let rig = polled_in_spite_of(Fault::Written { numbers, form }, 1).await;
            assert_eq!(first_calls(&rig, 1).await, "success 0", "{form:?} {numbers:?}");
            assert_eq!(rig.count("receiptd.latest_receipts WHERE read_num IS NOT NULL").await, 3);
        }
    }
}

#[tokio::test]
async fn repeated_unasked_or_reordered_entries_change_nothing() {
    for fault in [
        Fault::RepeatedEntries { conflicting: false },
        Fault::UnaskedEntries,
        Fault::ReorderedEntries,
        Fault::ExtraFields,
    ] {
        let kind = fault.kind();
        let mut rig = Harness::new().await;
        rig.simulator.add_fault(FaultRule { fault, when: When::All, times: Some(1) });
        rig.watch("g", 1..=3).await;
        rig.until(POLLED).await;
        assert_eq!(rig.count("receiptd.latest_receipts WHERE read_num IS NOT NULL").await, 3, "{kind}");
        assert_eq!(rig.count("receiptd.watched_messages").await, 3, "{kind}");
    }
}
