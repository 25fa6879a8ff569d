//! Malicious answers: far more than was asked for, secrets, another address.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use receiptd::{
    chat::{ChatClient, ChatSettings, Credential, Destination},
    domain::MsgSeq,
    rules::protocol::{Attempt, Class},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::harness::{APP, SECRET_KEY, app, group, seq};

/// Answers one call with the result of `answer` for its head, and returns the attempt.
async fn called(seqs: &[MsgSeq], credential: Credential, answer: impl FnOnce(&str) -> Vec<u8>) -> Attempt {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = ChatSettings {
        sdk_app_id: app(),
        identifier: "administrator".to_owned(),
        credential,
        destination: Destination::Endpoint(format!("http://{}", listener.local_addr().unwrap())),
    };
    let client = ChatClient::new(settings, std::time::Duration::from_secs(30), 1).unwrap();
    let group = group("g");
    let serve = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut head = vec![];
        while !head.ends_with(b"}]}") {
            assert!(connection.read_buf(&mut head).await.unwrap() > 0);
        }
        // The client may have closed the connection before the end.
        _ = connection.write_all(&answer(std::str::from_utf8(&head).unwrap())).await;
        _ = connection.shutdown().await;
        while connection.read_buf(&mut head).await.is_ok_and(|more| more > 0) {}
    };
    let call = client.get_receipts(&group, seqs, || true);
    let (attempt, ()) = tokio::join!(call, serve);
    attempt.unwrap()
}

fn key() -> Credential {
    Credential::SecretKey(SECRET_KEY.into())
}

fn json(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn gzip(body: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body.as_bytes()).unwrap();
    let body = encoder.finish().unwrap();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.into_bytes(), body].concat()
}

#[tokio::test]
async fn an_answer_too_large_for_its_question_is_not_read() {
    let million = format!(r#"{{"ErrorCode":0,"GroupMsgReceiptList":[{}{{}}]}}"#, "{},".repeat(1_000_000));
    let few: Vec<MsgSeq> = (1..=50).map(seq).collect();
    assert!(gzip(&million).len() < 5_000);
    for answer in [gzip(&million), json(&million)] {
        let failure = called(&few, key(), |_| answer).await.outcome.unwrap_err();
        assert_eq!((failure.class, failure.info.as_str()), (Class::Retry, "the answer is larger than 116736 bytes"));
    }
    let full: String =
        (1..=50).map(|seq| format!(r#",{{"Code":0,"MsgSeq":{seq},"ReadNum":199,"UnreadNum":1}}"#)).collect();
    let full = format!(r#"{{"ActionStatus":"OK","ErrorCode":0,"GroupMsgReceiptList":[{}]}}"#, &full[1..]);
    for answer in [gzip(&full), json(&full)] {
        assert_eq!(called(&few, key(), |_| answer).await.outcome.unwrap().receipts.len(), 50);
    }
}

#[tokio::test]
async fn an_error_text_with_part_of_a_secret_is_dropped() {
    let info = |text: &str| json(&format!(r#"{{"ActionStatus":"FAIL","ErrorCode":70003,"ErrorInfo":"{text}"}}"#));
    let signature = |head: &str| head.split_once("usersig=").unwrap().1.split_once('&').unwrap().0.to_owned();
    let whole = |head: &str| info(&signature(head));
    let middle = |head: &str| info(&format!("bad: {}", &signature(head)[40..80]));
    let end = |head: &str| info(&format!("…{}", signature(head).split_at(150).1));
    for answer in [&whole as &dyn Fn(&str) -> Vec<u8>, &middle, &end, &|_: &str| info(&SECRET_KEY[4..])] {
        for credential in [key(), Credential::UserSig(format!("{SECRET_KEY}{}", "0aB*".repeat(60)).into())] {
            let failure = called(&[seq(1)], credential, answer).await.outcome.unwrap_err();
            assert_eq!(
                (failure.code, failure.info.as_str()),
                (Some(70003), "(the text contained a secret and was removed)")
            );
        }
    }
    let said = format!("sdkappid {APP} does not know administrator");
    assert_eq!(called(&[seq(1)], key(), |_| info(&said)).await.outcome.unwrap_err().info, said);
}

#[tokio::test]
async fn a_text_that_turns_the_terminal_around_is_kept_without_that() {
    let text = "a\u{202e}b\u{2028}c\\u001b[2Jd\u{9b}e";
    let body = format!(r#"{{"ErrorCode":10002,"ErrorInfo":"{text}"}}"#);
    assert_eq!(called(&[seq(1)], key(), |_| json(&body)).await.outcome.unwrap_err().info, "a b c [2Jd e");
}

#[tokio::test]
async fn a_call_that_is_sent_on_to_another_address_goes_nowhere() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = elsewhere.local_addr().unwrap();
    let moved = format!("HTTP/1.1 307 Moved\r\nlocation: http://{address}/\r\ncontent-length: 0\r\n\r\n");
    let failure = called(&[seq(1)], key(), |_| moved.into_bytes()).await.outcome.unwrap_err();
    assert_eq!((failure.class, failure.info.as_str()), (Class::Unknown, "HTTP status 307"));
    tokio::select! { biased; _ = elsewhere.accept() => panic!("it was called"), () = std::future::ready(()) => {} }
}
