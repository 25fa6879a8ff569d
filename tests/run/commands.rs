//! Commands next to a daemon.

use std::{fs, process::Command};

use receiptd::simulator::{Fault, FaultRule, When};
use sqlx::PgPool;

use crate::{
    common::TestDatabase,
    harness::{APP, Harness, SECRET_KEY, end, signal, watch},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_asks_the_database_and_the_service_and_names_what_fails() {
    let (mut place, database) = (Harness::new("check", 200).await, TestDatabase::new().await);
    let check = |place: &Harness| {
        let config = place.path("receiptd.toml");
        fs::write(&config, &place.config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
        let output =
            command.args(["check", "--config"]).arg(config).env("DATABASE_URL", database.url()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("canary"), "{said}");
        (output.status.code(), said)
    };
    let (code, said) = check(&place);
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "Ok: database: postgres://",
        "Ok: database_clock: agrees with",
        "Ok: rights: ",
        "Ok: schema: does not exist yet",
        "Ok: connection: http://127.0.0.1:",
        "Ok: clock: this machine's clock agrees with",
        "accepts the signature",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let (wrong_key, right) = (place.config.replace(SECRET_KEY, "canary-another-key"), place.config.clone());
    place.config = wrong_key;
    let (code, said) = check(&place);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("Failed: service") && said.contains("check chat.secret_key"), "{said}");
    place.config = right.replace(&place.simulator.endpoint(), "https://chat.invalid");
    let (code, said) = check(&place);
    assert!(
        code == Some(69) && said.contains("Failed: dns: chat.invalid does not resolve: check DNS (/etc/resolv.conf)"),
        "{said}"
    );
    place.config = right;
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let (code, said) = check(&place);
    assert_eq!(code, Some(0), "{said}");
    for part in
        ["Ok: lease: held by ", &daemon.id().to_string(), "Ok: partitions: exist for ", "0 messages in 0 groups"]
    {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    signal(&daemon, "-TERM");
    end(daemon);
    database.psql("INSERT INTO receiptd.schema_migrations VALUES (9999, 'from the future', now(), true, '', 0)");
    let (code, said) = check(&place);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("Failed: schema") && said.contains("newer receiptd"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_explain_report_a_refused_app_with_its_remedy() {
    let (mut place, database) = (Harness::new("refused", 200).await, TestDatabase::new().await);
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    place.config = place.config.replace("listen = \"off\"", &format!("listen = \"{listen}\""));
    place.simulator.add_fault(FaultRule { fault: Fault::ErrorCode { code: 60021 }, when: When::All, times: None });
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    watch(&PgPool::connect(&database.url()).await.unwrap(), 1, 1).await;
    place.hears_of(|line| line.contains("code 60021"));
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
        command.args(arguments).arg("--config").arg(place.path("receiptd.toml")).env("DATABASE_URL", database.url());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let remedy = "add it in the console";
    let explained = ask(&["explain", "g1", "1"]);
    assert!(explained.starts_with("No message of this app is being polled: Tencent Chat refuses"), "{explained}");
    assert!(explained.lines().next().unwrap().contains(remedy), "{explained}");
    let status = ask(&["status"]);
    let told = status.lines().filter(|line| line.contains("code 60021") && line.contains(remedy));
    assert_eq!(told.count(), 1, "{status}");
    signal(&daemon, "-TERM");
    end(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_that_usersig_prints_is_accepted_by_the_service() {
    let place = Harness::new("usersig", 200).await;
    let config = place.path("receiptd.toml");
    fs::write(&config, &place.config).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_receiptd")).args(["usersig", "--config"]).arg(&config).output().unwrap();
    let signature = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    assert_eq!(signature.lines().count(), 1, "the signature alone");
    _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!(
        "{}/v4/group_open_http_svc/get_group_msg_receipt?sdkappid={APP}&identifier=administrator&usersig={}&random=7&contenttype=json",
        place.simulator.endpoint(),
        signature.trim()
    );
    let body = r#"{"GroupId":"g","MsgSeqList":[{"MsgSeq":1}]}"#;
    let answer = reqwest::Client::new().post(url).body(body).send().await.unwrap().text().await.unwrap();
    assert!(answer.contains("\"ErrorCode\":0"), "{answer}");
}
