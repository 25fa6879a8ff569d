//! TLS with a real PostgreSQL and the test's own certificate authority.

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command};

use receiptd::{
    embedded::{EmbeddedPostgres, Options},
    store::Store,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    common::{ScratchDirectory, own_address},
    harness::app,
};

/// Creates a CA `ca`, another one, and a key with a certificate for `address`.
fn make_certificates(place: &Path, address: &str) {
    let script = r#"set -e; cd "$1"
        for ca in ca other; do
            openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$ca" -keyout "$ca.key" -out "$ca.pem"
        done
        openssl req -newkey rsa:2048 -nodes -subj "/CN=database" -keyout server.key -out server.csr
        printf 'subjectAltName=IP:%s\n' "$2" > names
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem"#;
    let output = Command::new("sh").args(["-c", script, "certificates"]).arg(place).arg(address).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A server with TLS at both addresses, and a certificate for the first.
fn start(place: &Path, addresses: [&str; 2]) -> EmbeddedPostgres {
    make_certificates(place, addresses[0]);
    let data_dir = place.join("postgres");
    EmbeddedPostgres::start(&Options::new(&data_dir)).unwrap().stop().unwrap();
    let account = fs::metadata(data_dir.join("cluster")).unwrap();
    for name in ["server.key", "server.pem", "hba"] {
        if name == "hba" {
            fs::write(place.join(name), "local all all trust\nhostssl all all all trust\n").unwrap();
        }
        if account.uid() != fs::metadata(place).unwrap().uid() {
            std::os::unix::fs::chown(place.join(name), Some(account.uid()), Some(account.gid())).unwrap();
        }
    }
    let mut options = Options::new(&data_dir);
    let path = |name: &str| place.join(name).display().to_string();
    options.settings = vec![
        ("listen_addresses".into(), addresses.join(",")),
        ("ssl".into(), "on".into()),
        ("ssl_cert_file".into(), path("server.pem")),
        ("ssl_key_file".into(), path("server.key")),
        ("hba_file".into(), path("hba")),
    ];
    EmbeddedPostgres::start(&options).unwrap()
}

/// The result of connecting: nothing, or the remedy.
async fn advice(url: &str) -> Result<(), String> {
    let store = Store::new(&url.into(), 1, app()).unwrap();
    store.server_version().await.map(drop).map_err(|error| {
        error.advice().unwrap_or_else(|| panic!("{url}: nothing helps against {}", error.explain())).to_owned()
    })
}

#[tokio::test]
async fn certificates_are_verified_and_failures_name_the_reason() {
    let scratch = ScratchDirectory::new("tls");
    let (address, other) = (own_address().ip().to_string(), own_address().ip().to_string());
    let (place, addresses) = (scratch.path().to_owned(), [address.clone(), other.clone()]);
    let server = tokio::task::spawn_blocking(move || start(&place, [&addresses[0], &addresses[1]])).await.unwrap();
    let ca = |name: &str| scratch.path().join(name).display().to_string();
    let url = |host: &str, parameters: &str| format!("postgres://postgres@{host}:5432/postgres?{parameters}");
    for (host, parameters, expected) in [
        (&address, format!("sslmode=verify-full&sslrootcert={}", ca("ca.pem")), None),
        (&address, format!("sslrootcert={}", ca("ca.pem")), None),
        (&address, "sslmode=verify-full".to_owned(), Some("from an unknown CA")),
        (&address, "sslrootcert=system".to_owned(), Some("from an unknown CA")),
        (&address, format!("sslrootcert={}", ca("other.pem")), Some("from an unknown CA")),
        (&other, format!("sslmode=verify-full&sslrootcert={}", ca("ca.pem")), Some("for another name")),
        (&other, format!("sslmode=verify-ca&sslrootcert={}", ca("ca.pem")), None),
        (&other, format!("sslmode=require&sslrootcert={}", ca("other.pem")), Some("from an unknown CA")),
        (&other, "sslmode=require".to_owned(), None),
    ] {
        match (advice(&url(host, &parameters)).await, expected) {
            (Ok(()), None) => {}
            (Err(found), Some(expected)) if found.contains(expected) => {}
            (found, _) => panic!("{host} {parameters}: {found:?}, and not {expected:?}"),
        }
    }
    tokio::task::spawn_blocking(move || server.stop()).await.unwrap().unwrap();
}

#[tokio::test]
async fn whoever_has_no_tls_gets_no_password() {
    let listener = tokio::net::TcpListener::bind(own_address()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut request = [0; 8];
        client.read_exact(&mut request).await.unwrap();
        client.write_all(b"N").await.unwrap();
        let mut rest = Vec::new();
        _ = client.read_to_end(&mut rest).await;
        rest
    });
    let found = advice(&format!("postgres://me:canary@{address}/app?sslmode=verify-full")).await.unwrap_err();
    assert!(found.contains("the server must support TLS"), "{found}");
    assert_eq!(heard.await.unwrap(), b"", "nothing is sent without TLS");
}
