//! One call: the question to its caller before the service receives it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use receiptd::chat::{ChatClient, Destination, NotSent};
use tokio::{io::AsyncReadExt, net::TcpListener};

use crate::harness::{Harness, group, seq, simulator_config};

#[tokio::test]
async fn a_call_is_permitted_after_its_handshake_or_not_made() {
    let rig = Harness::stopped(simulator_config()).await;
    // A service whose connections take long to set up.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = rig.settings.chat.clone();
    settings.destination = Destination::Endpoint(format!("https://{}", listener.local_addr().unwrap()));
    let slow = ChatClient::new(settings, rig.settings.session.polling.request_timeout, 1).unwrap();
    let asked = Arc::new(AtomicBool::new(false));
    let may_send = {
        let asked = asked.clone();
        move || {
            asked.store(true, Ordering::Relaxed);
            true
        }
    };
    let seqs = [seq(1)];
    let id = group("g");
    tokio::select! {
        attempt = slow.get_receipts(&id, &seqs, may_send) => panic!("there is no TLS there, but {attempt:?}"),
        hello = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut hello = [0; 5];
            connection.read_exact(&mut hello).await.unwrap();
            hello
        } => assert_eq!(hello[0], 22, "a handshake has begun"),
    }
    assert!(!asked.load(Ordering::Relaxed), "it was asked before the handshake was done");

    let client = ChatClient::new(rig.settings.chat.clone(), rig.settings.session.polling.request_timeout, 1).unwrap();
    assert_eq!(client.get_receipts(&id, &seqs, || false).await.unwrap_err(), NotSent);
    assert_eq!(rig.simulator.ledger().calls(), 0);
    client.get_receipts(&id, &seqs, || true).await.unwrap();
    assert_eq!(rig.simulator.ledger().calls(), 1);
}
