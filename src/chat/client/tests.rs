use super::*;
use crate::simulator::{Fault, FaultRule, Simulator, SimulatorConfig, When};

async fn service(app: SdkAppId) -> Simulator {
    Simulator::start(SimulatorConfig::new(app, "administrator", "key".into())).await.unwrap()
}

#[tokio::test]
async fn an_attempt_is_dated_by_the_writing_of_its_request() {
    let sdk_app_id = SdkAppId::try_from(1_400_000_000).unwrap();
    let service = service(sdk_app_id).await;
    let settings = ChatSettings {
        sdk_app_id,
        identifier: "administrator".into(),
        credential: Credential::SecretKey("key".into()),
        destination: Destination::Endpoint(service.endpoint()),
    };
    let client = ChatClient::new(settings, Duration::from_secs(8), 1).unwrap();
    let began = clock::now();
    let until_written = Duration::from_millis(100);
    let is_written = move || {
        std::thread::sleep(until_written);
        true
    };
    let seqs = [MsgSeq::try_from(1).unwrap()];
    let attempt = client.get_receipts(&"group".parse().unwrap(), &seqs, is_written).await.unwrap();
    assert!(attempt.outcome.is_ok(), "{attempt:?}");
    assert!(attempt.called_at - began >= chrono::TimeDelta::from_std(until_written).unwrap(), "{attempt:?}");
    assert!(attempt.called_at < attempt.ended_at && attempt.latency >= until_written, "{attempt:?}");
}

#[tokio::test]
async fn a_502_for_ever_at_the_first_domain_turns_to_the_backup() {
    let sdk_app_id = SdkAppId::try_from(1_400_000_000).unwrap();
    let (first, backup) = (service(sdk_app_id).await, service(sdk_app_id).await);
    first.add_fault(FaultRule { fault: Fault::HttpStatus { status: 502 }, when: When::All, times: None });
    let settings = ChatSettings {
        sdk_app_id,
        identifier: "administrator".into(),
        credential: Credential::SecretKey("key".into()),
        destination: Destination::Endpoint(first.endpoint()),
    };
    let client = ChatClient::new(settings, Duration::from_secs(8), 1).unwrap();
    *client.domains() = Domains::of(vec![first.endpoint(), backup.endpoint()]);
    let (group, seqs) = ("g".parse().unwrap(), [MsgSeq::try_from(1).unwrap()]);
    let mut classes = Vec::new();
    for _ in 0..7 {
        classes.push(client.get_receipts(&group, &seqs, || true).await.unwrap().class());
    }
    assert_eq!(classes[..5], [Class::Retry; 5]);
    assert_eq!(classes[5..], [Class::Success; 2]);
    assert_eq!((first.ledger().calls(), backup.ledger().calls()), (5, 2));
}
