//! Precedence of the sources.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;

fn url(config: &Config) -> &str {
    config.database.url.as_ref().unwrap().expose_secret()
}

#[test]
fn flags_override_variables_which_override_file_and_defaults() {
    let text = "[polling]\nbatch_size = 10\nmax_in_flight = 11\nrequest_timeout = \"5s\"\n";
    let variables = [("RECEIPTD_POLLING__BATCH_SIZE", "20"), ("RECEIPTD_POLLING__MAX_IN_FLIGHT", "21")];
    let polling = load(text, &variables, &[("polling.batch_size", "30")]).unwrap().polling;
    let expected =
        Polling { batch_size: 30, max_in_flight: 21, request_timeout: Duration::from_secs(5), ..Polling::default() };
    assert_eq!(polling, expected);
}

#[test]
fn database_url_overrides_the_file_but_not_our_own_variable() {
    let file = "[database]\nurl = \"postgres://a@file/x\"\n";
    let common = ("DATABASE_URL", "postgres://a@common/x");
    let own = ("RECEIPTD_DATABASE__URL", "postgres://a@own/x");
    assert_eq!(url(&load(file, &[], &[]).unwrap()), "postgres://a@file/x");
    assert_eq!(url(&load(file, &[common], &[]).unwrap()), "postgres://a@common/x");
    assert_eq!(url(&load(file, &[own, common], &[]).unwrap()), "postgres://a@own/x");
    assert_eq!(url(&load(file, &[("DATABASE_URL", "")], &[]).unwrap()), "postgres://a@file/x", "empty is not set");
}

#[test]
fn a_higher_layer_replaces_the_alternatives_of_a_lower_one() {
    let file = "[chat]\nsdk_app_id = 1\nregion = \"sg\"\nsecret_key_file = \"/nowhere/key\"\n\
                [database]\nurl_file = \"/nowhere/url\"\n[cadence.x]\ntiers = [{ until = \"1h\", every = \"1m\" }]\n";
    let variables = [
        ("RECEIPTD_CHAT__USER_SIG", "signature"),
        ("DATABASE_URL", "postgres://a@common/x"),
        ("RECEIPTD_CADENCE__X__CRON", "0 0 * * *"),
    ];
    let config = load(file, &variables, &[("chat.endpoint", "http://127.0.0.1:9000")]).unwrap();
    let chat = config.chat().unwrap();
    assert!(matches!(chat.credential, Credential::UserSig(sig) if sig.expose_secret() == "signature"));
    assert_eq!(chat.destination, Destination::Endpoint("http://127.0.0.1:9000".into()));
    assert_eq!(url(&config), "postgres://a@common/x");
    assert!(config.cadences.of(Some("x")).to_string().contains("0 0 * * *"));
}

#[test]
fn both_alternatives_in_the_variables_are_an_error_too() {
    let variables = [("RECEIPTD_DATABASE__URL", "postgres://a@b/c"), ("RECEIPTD_DATABASE__URL_FILE", "/f")];
    let error = load("", &variables, &[]).unwrap_err().to_string();
    assert!(error.contains("conflicts with database.url_file: keep one"), "{error}");
}

#[test]
fn text_from_variables_stays_as_it_is() {
    for key in ["0123", "1e5", "true", "[1]", "a=b"] {
        let variables = [("RECEIPTD_CHAT__SECRET_KEY", key), ("RECEIPTD_CHAT__SDK_APP_ID", "7")];
        let chat = load("[chat]\nregion = \"jp\"", &variables, &[]).unwrap().chat().unwrap();
        assert!(matches!(chat.credential, Credential::SecretKey(secret) if secret.expose_secret() == key));
    }
}

#[test]
fn tiers_can_be_given_outside_the_file_as_the_file_writes_them() {
    let tiers = "[{ until = \"10m\", every = \"10s\" }]";
    for (variables, flags) in
        [(vec![("RECEIPTD_CADENCE__DEFAULT__TIERS", tiers)], vec![]), (vec![], vec![("cadence.default.tiers", tiers)])]
    {
        let config = load("", &variables, &flags).unwrap();
        assert_eq!(config.cadences.of(None).expires_after(), Duration::from_secs(600));
    }
    let error = load("", &[], &[("cadence.default.tiers", "often")]).unwrap_err().to_string();
    assert!(error.contains("cadence.default.tiers"), "{error}");
}

#[test]
fn foreign_variables_are_ignored_and_misspelled_ones_refused() {
    let others = [
        ("RECEIPTD_CONFIG", "/x"),
        ("RECEIPTD_TEST_POSTGRES", "1"),
        ("NOTIFY_SOCKET", "/run/x"),
        ("RECEIPTD", "1"),
        ("PATH", "/bin"),
        ("OTHER__CHAT__REGION", "sg"),
    ];
    load("", &others, &[]).unwrap();
    for (name, words) in [
        ("RECEIPTD_FOO__BAR", "foo (from RECEIPTD_FOO__BAR): unknown section"),
        ("RECEIPTD_HTTP__LISTN", "http.listn"),
        ("RECEIPTD_CHAT_SDK_APP_ID", "RECEIPTD_CHAT__SDK_APP_ID"),
        ("RECEIPTD___X", "(from RECEIPTD___X): is not a key: keys are SECTION.KEY"),
    ] {
        let error = load("", &[(name, "1")], &[]).unwrap_err().to_string();
        assert!(error.contains(words), "{name}: {error}");
    }
}

#[test]
fn cadences_keep_their_names_and_the_default_is_always_there() {
    let text = "[cadence.mornings-2]\ncron = \"*/15 8-11 * * MON-FRI\"\nexpire_after = \"7d\"\n\
                [cadence.default]\nstop_when_all_read = false\n";
    let cadences = load_file(text).unwrap().cadences;
    assert_eq!(cadences.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["default", "mornings-2"]);
    assert!(cadences.has("mornings-2") && !cadences.has("evenings"));
    assert_eq!(cadences.of(Some("mornings-2")).expires_after(), Duration::from_secs(7 * 86_400));
    for default in [cadences.of(None), cadences.of(Some("default"))] {
        assert!(!default.stop_when_all_read(), "one key of the default can be changed alone");
        assert_eq!(default.expires_after(), Duration::from_secs(30 * 86_400));
    }
}

#[test]
fn plain_http_needs_loopback_and_off_disables_listening() {
    for endpoint in ["http://localhost:9000/", "http://127.0.0.2:1", "http://[::1]:9000", "https://chat.example"] {
        let config = load("[chat]\nsdk_app_id = 1\nuser_sig = \"s\"\n", &[], &[("chat.endpoint", endpoint)]).unwrap();
        let origin = endpoint.trim_end_matches('/').to_owned();
        assert_eq!(config.chat().unwrap().destination, Destination::Endpoint(origin));
    }
    assert_eq!(load_file("[http]\nlisten = \"off\"").unwrap().http.listen, None);
    assert!(load_file("").unwrap().http.listen.unwrap().ip().is_loopback(), "nobody outside is let in unasked");
}

#[test]
fn systemd_credentials_override_the_file_but_not_variables() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("chat.secret_key"), "canary of systemd\n").unwrap();
    std::fs::write(directory.path().join("database.url"), "postgres://a@credential/x\n").unwrap();
    let handed_over = ("CREDENTIALS_DIRECTORY", directory.path().to_str().unwrap());
    let file = "[chat]\nsdk_app_id = 1\nregion = \"sg\"\nsecret_key = \"of the file\"\n";
    let config = load(file, &[handed_over], &[]).unwrap();
    let credential = config.chat().unwrap().credential;
    assert!(matches!(credential, Credential::SecretKey(key) if key.expose_secret() == "canary of systemd"));
    assert_eq!(url(&config), "postgres://a@credential/x");
    let common = ("DATABASE_URL", "postgres://a@common/x");
    assert_eq!(url(&load(file, &[handed_over, common], &[]).unwrap()), "postgres://a@common/x");
    let nothing = ("CREDENTIALS_DIRECTORY", "/nowhere");
    assert!(load(file, &[nothing], &[]).unwrap().database.url.is_none());
}
