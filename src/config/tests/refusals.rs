//! Refused settings and their errors: key, value and remedy.

use super::*;

/// Each text is refused with one problem that contains all of these parts.
fn refused(cases: &[(&str, &[&str])]) {
    for (text, words) in cases {
        let message = load_file(text).map(|_| ()).expect_err(text).to_string();
        for word in *words {
            assert!(message.contains(word), "{text:?} lacks {word:?} in: {message}");
        }
        assert_eq!(problem_keys(text).len(), 1, "{text:?}: {message}");
    }
}

#[test]
fn unknown_keys_and_sections_are_refused_with_those_that_exist() {
    refused(&[
        ("[polling]\nbatchsize = 1", &["polling.batchsize", "unknown key", "batch_size", "max_in_flight"]),
        ("[poling]\nbatch_size = 1", &["poling", "unknown section", "chat, database, polling"]),
        ("sdk_app_id = 1", &["sdk_app_id", "unknown section"]),
        ("polling = 5", &["polling", "[polling]"]),
        ("[cadence.x]\ntiers = [{ until = \"1h\", evry = \"1m\" }]", &["cadence.x.tiers[0]", "evry", "`every`"]),
        (
            "[cadence.x]\ncron = \"0 0 * * *\"\nevery = \"1m\"",
            &["cadence.x.every", "unknown key", "stop_when_all_read"],
        ),
        ("[cadence]\ntiers = []", &["cadence.tiers", "[cadence.tiers]"]),
    ]);
}

#[test]
fn values_that_cannot_be_are_refused_with_those_that_can() {
    refused(&[
        ("[http]\nlisten = \"0.0.0.0:9464\"", &["http.listen", "\"0.0.0.0:9464\"", "http.token_file"]),
        ("[http]\nlisten = \"[2001:db8::1]:1\"", &["http.listen", "http.token"]),
        ("[http]\ntoken = \"a\"", &["http.token", "shorter than 16 characters", "openssl rand -hex 16"]),
        ("[http]\nlisten = \"0.0.0.0:1\"\ntoken = \"fifteen letters\"", &["http.token", "openssl rand -hex 16"]),
        ("[http]\ntoken = \"replace-with-random-characters\"", &["http.token", "openssl rand -hex 16"]),
        ("[chat]\nsdk_app_id = 0", &["chat.sdk_app_id", "\"0\"", "1 to 4294967295"]),
        ("[chat]\nsdk_app_id = true", &["chat.sdk_app_id", "\"true\""]),
        ("[chat]\nsdk_app_id = 4294967296", &["\"4294967296\""]),
        ("[chat]\nidentifier = \"a\\nTLS.time:1\"", &["chat.identifier", "without spaces"]),
        ("[chat]\nregion = \"eu\"", &["chat.region", "\"eu\"", "cn, sg, kr, de, us, id, jp"]),
        ("[chat]\nendpoint = \"ftp://x\"", &["chat.endpoint", "\"ftp://x\"", "http or https"]),
        ("[chat]\nendpoint = \"https://x/v4\"", &["\"https://x/v4\"", "scheme, host and port"]),
        ("[chat]\nendpoint = \"https://x?a=b\"", &["\"https://x?a=b\"", "scheme, host and port"]),
        ("[chat]\nendpoint = \"http://chat.example\"", &["\"http://chat.example\"", "use https"]),
        ("[readers]\npseudonyms = true", &["readers.pseudonym_key", "is missing", "openssl rand -hex 32"]),
        ("[readers]\npseudonyms = \"yes\"", &["readers.pseudonyms", "true or false"]),
        ("[readers]\npseudonym_key = \"short\"", &["readers.pseudonym_key", "shorter than 32", "openssl rand -hex 32"]),
        ("[readers]\npseudonym_key = \"replace-with-at-least-32-random-characters\"", &["is the example"]),
        ("[readers]\nreader_cadence = \"2d\"", &["readers.reader_cadence", "\"2d\"", "1s to 1d"]),
        ("[readers]\ngroups = [\"gr\u{fc}ppe\"]", &["readers.groups", "printable ASCII"]),
        ("[readers]\ngroups = \"*\"", &["readers.groups", "sequence"]),
        ("[readers]\nmax_calls_per_second = 0", &["readers.max_calls_per_second", "1 to 1000"]),
        ("[retention]\nreaders = \"1h\"", &["retention.readers", "\"1h\"", "1d or more"]),
        ("[polling]\nbatch_size = 0", &["polling.batch_size", "\"0\"", "1 to 1000"]),
        ("[polling]\nbatch_size = 2.5", &["\"2.5\"", "whole number"]),
        ("[polling]\nbatch_size = [1]", &["polling.batch_size", "sequence", "a string"]),
        ("[polling]\nmax_calls_per_second = 1001", &["\"1001\"", "1 to 1000"]),
        ("[polling]\nmax_in_flight = -1", &["\"-1\"", "1 to 10000"]),
        ("[polling]\ntransit_allowance = \"2s\"", &["polling.transit_allowance", "\"2s\"", "0s to 1s"]),
        ("[polling]\nrequest_timeout = \"3s\"", &["polling.request_timeout", "\"3s\"", "over 3s"]),
        ("[polling]\nrequest_timeout = \"61s\"", &["\"61s\"", "up to 60s"]),
        ("[polling]\nrequest_timeout = 8", &["\"8\"", "such as \"8s\""]),
        ("[database]\nmax_connections = 2", &["database.max_connections", "\"2\"", "3 to 100"]),
        ("[database]\nprepared_statements = true", &["database.prepared_statements", "\"true\"", "\"auto\" or false"]),
        ("[database]\nurl = \"host=db user=me\"", &["database.url", "not a PostgreSQL URL", "postgres://USER"]),
        ("[database]\nurl = \"postgres://db/x\"", &["database.url", "has no user"]),
        ("[database]\nurl = \"postgres://me:a/b@db/x\"", &["database.url", "is invalid", "%2F"]),
        ("[database]\ndata_dir = \"\"", &["database.data_dir", "set a directory"]),
        ("[discovery]\nenabled = \"yes\"", &["discovery.enabled", "\"yes\"", "true or false"]),
        ("[discovery]\ntypes = [\"AVChatRoom\"]", &["discovery.types", "AVChatRoom", "no read receipts"]),
        ("[discovery]\nenabled = true\ntypes = []", &["discovery.types", "no group", "discovery.ids"]),
        ("[discovery]\ninclude = [\"gr\u{fc}ppe\"]", &["discovery.include", "printable ASCII"]),
        ("[discovery]\nexclude = [\"\"]", &["discovery.exclude", "1 to 100"]),
        ("[discovery]\nids = [\"@TGS#_1\"]", &["discovery.ids", "a Community"]),
        ("[discovery]\nids = \"a\"", &["discovery.ids", "sequence"]),
        ("[discovery]\nsince = \"91d\"", &["discovery.since", "\"91d\"", "\"new\"", "90d"]),
        ("[discovery]\nnot_before = \"yesterday\"", &["discovery.not_before", "\"yesterday\"", "2026-01-31"]),
        ("[discovery]\ncadence = \"slow\"", &["discovery.cadence", "\"slow\"", "[cadence.slow]"]),
        ("[discovery]\ngroups = 0", &["discovery.groups", "\"0\"", "1 to 10000000"]),
        ("[discovery]\nmessages = 0", &["discovery.messages", "1 to 1000000000"]),
        ("[discovery]\nmessages_per_group = 0", &["discovery.messages_per_group", "1 to 100000"]),
        ("[discovery]\nmax_calls_per_second = 1001", &["discovery.max_calls_per_second", "1 to 1000"]),
        ("[snapshots]\nrecord = \"all\"", &["snapshots.record", "\"all\"", "every_poll"]),
        ("[http]\nlisten = \"9464\"", &["http.listen", "\"9464\"", "\"off\""]),
        ("[webhooks]\nlisten = \"9465\"", &["webhooks.listen", "\"9465\"", "\"off\""]),
        ("[webhooks]\nlisten = \"127.0.0.1:1\"", &["webhooks.token_file", "is missing", "console"]),
        ("[webhooks]\ntoken = \"sixteen letters.\"", &["webhooks.token", "shorter than 32", "openssl rand -hex 16"]),
        ("[webhooks]\nprevious_token = \"a\"", &["webhooks.previous_token", "shorter than 32"]),
        ("[webhooks]\ntoken = \"replace-with-random-characters\"", &["webhooks.token", "example"]),
        (
            "[webhooks]\nlisten = \"0.0.0.0:1\"\ntoken = \"0123456789abcdef0123456789abcdef\"",
            &["webhooks.listen", "\"0.0.0.0:1\"", "webhooks.tls_certificate_file"],
        ),
        (
            "[webhooks]\nlisten = \"127.0.0.1:9464\"\ntoken = \"0123456789abcdef0123456789abcdef\"",
            &["webhooks.listen", "http.listen", "another"],
        ),
        (
            "[webhooks]\nlisten = \"[::1]:1\"\ntoken = \"0123456789abcdef0123456789abcdef\"\ntls_key_file = \"/k\"",
            &["webhooks.tls_certificate_file", "is missing"],
        ),
        ("[webhooks]\npath = \"secret\"", &["webhooks.path", "begin it with /"]),
        ("[webhooks]\npath = \"/a b\"", &["webhooks.path", "letters"]),
        ("[webhooks]\npath = \"/replace-with-random-characters\"", &["webhooks.path", "example"]),
        ("[webhooks]\nforward = \"ftp://x\"", &["webhooks.forward", "\"ftp://x\"", "http or https"]),
        ("[webhooks]\nforward = \"http://x.example/a\"", &["webhooks.forward", "unencrypted"]),
        ("[webhooks]\nforward = \"https://x.example/a?b\"", &["webhooks.forward", "query"]),
        ("[webhooks]\nforward = \"https://me:pw@x.example/\"", &["webhooks.forward", "credentials"]),
        ("[log]\nlevel = \"inof\"", &["log.level", "\"inof\"", "receiptd=debug"]),
        ("[log]\nlevel = \"receiptd=loud\"", &["log.level", "\"receiptd=loud\""]),
        ("[log]\nformat = \"xml\"", &["log.format", "\"xml\"", "journal"]),
    ]);
}

#[test]
fn cadences_that_cannot_be_followed_are_refused_by_name() {
    refused(&[
        ("[cadence.slow]\nstop_when_all_read = true", &["cadence.slow", "tiers = [", "cron"]),
        (
            "[cadence.slow]\nstop_when_all_read = \"yes\"\ncron = \"0 0 * * *\"",
            &["stop_when_all_read", "\"yes\"", "true or false"],
        ),
        ("[cadence.slow]\ntiers = []", &["cadence.slow.tiers", "no tiers"]),
        ("[cadence.slow]\ntiers = [{ until = \"1h\", every = \"0s\" }]", &["cadence.slow.tiers", "shortest interval"]),
        (
            "[cadence.slow]\ntiers = [{ until = \"soon\", every = \"1m\" }]",
            &["cadence.slow.tiers[0].until", "\"soon\"", "7d"],
        ),
        (
            "[cadence.slow]\ntiers = [{ until = \"1h\", every = \"1m\" }]\nexpire_after = \"1d\"",
            &["cadence.slow.expire_after", "\"1d\"", "applies to cron"],
        ),
        (
            "[cadence.slow]\ntiers = [{ until = \"1h\", every = \"1m\" }, { until = \"2h\" }]",
            &["cadence.slow.tiers[1].every", "is missing", "10m"],
        ),
        (
            "[cadence.slow]\ntiers = [{ until = \"1h\", every = \"1m\" }]\npatience = 4",
            &["cadence.slow.patience", "\"4\"", "pace = \"12m\""],
        ),
        ("[cadence.slow]\ncron = \"0 0 * * *\"\npace = \"5m\"", &["cadence.slow.pace", "\"5m\"", "tiers only"]),
        ("[cadence.slow]\ncron = \"0 0 * * *\"\nfastest = \"5m\"", &["cadence.slow.fastest", "not with cron"]),
        ("[cadence.default]\npace = \"soon\"", &["cadence.default.pace", "\"soon\"", "12m"]),
        ("[cadence.default]\npace = \"0s\"", &["cadence.default.pace", "shortest interval"]),
        ("[cadence.default]\npatience = 0", &["cadence.default.patience", "\"0\"", "1 to 1000"]),
        ("[cadence.slow]\ncron = \"* * *\"", &["cadence.slow.cron", "3 fields", "five"]),
        ("[cadence.slow]\ncron = \"0 0 30 2 *\"", &["cadence.slow.cron", "never matches"]),
        (
            "[cadence.default]\ncron = \"0 0 * * *\"\nexpire_after = \"x\"",
            &["cadence.default.expire_after", "\"x\"", "30d"],
        ),
        ("[cadence.Slow]\ncron = \"0 0 * * *\"", &["cadence.Slow", "a-z, 0-9"]),
        ("[cadence.\"my own\"]\ncron = \"0 0 * * *\"", &["cadence.my own", "a-z, 0-9"]),
    ]);
}

#[test]
fn pairs_that_contradict_each_other_are_refused() {
    refused(&[
        (
            "[chat]\nregion = \"sg\"\nendpoint = \"https://x\"",
            &["chat.region", "\"sg\"", "chat.endpoint", "conflicts with", "keep one"],
        ),
        (
            "[database]\nurl = \"postgres://a@b/c\"\ndata_dir = \"/d\"",
            &["database.url", "database.data_dir", "conflicts with"],
        ),
        (
            "[cadence.x]\ntiers = [{ until = \"1h\", every = \"1m\" }]\ncron = \"0 0 * * *\"",
            &["cadence.x.tiers", "cadence.x.cron", "conflicts with"],
        ),
        ("[chat]\nsecret_key = \"a\"\nuser_sig = \"b\"", &["chat.secret_key", "chat.user_sig", "conflicts with"]),
    ]);
}

#[test]
fn all_problems_are_reported_at_once_with_their_sources() {
    let text = "[chat]\nsdk_app_id = \"x\"\n[polling]\nbatch_size = 0\ntypo = 1\n[other]\n";
    let error = load(text, &[("RECEIPTD_HTTP__LISTEN", "here")], &[("log.format", "xml")]).unwrap_err().to_string();
    assert!(error.starts_with("the configuration has 6 problems:\n  - chat.sdk_app_id"), "{error}");
    for words in ["other: unknown section", "polling.typo", "(from RECEIPTD_HTTP__LISTEN)", "(from --set)", "(from /"] {
        assert!(error.contains(words), "{words:?} in {error}");
    }
}

#[test]
fn a_secret_on_the_command_line_is_not_blamed_on_the_file() {
    let error = load("[chat]\nsecret_key = \"a\"", &[], &[("chat.secret_key", "b")]).unwrap_err().to_string();
    assert!(error.contains("chat.secret_key (from --set): is a secret"), "{error}");
}

#[test]
fn what_is_missing_is_told_all_at_once_by_those_who_need_it() {
    let config = load_file("").unwrap();
    let error = config.chat().unwrap_err().to_string();
    for words in
        ["3 problems", "chat.sdk_app_id: is missing", "chat.secret_key_file: is missing", "chat.region: is missing"]
    {
        assert!(error.contains(words), "{words:?} in {error}");
    }
    assert!(config.sdk_app_id().unwrap_err().to_string().contains("chat.sdk_app_id: is missing"));
    let watching = load_file("[chat]\nsdk_app_id = 7").unwrap();
    assert_eq!(watching.sdk_app_id().unwrap().get(), 7, "a command that makes no calls needs no credential");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let missing = Path::new("/nowhere/receiptd.toml");
    let error = Config::load(Some(missing), std::iter::empty(), &[], now()).unwrap_err().to_string();
    assert!(error.contains("/nowhere/receiptd.toml") && error.contains("No such file") && error.contains("--config"));
}

#[test]
fn a_file_in_another_encoding_says_which_to_use() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"\xff\xfe[\0").unwrap();
    let error = Config::load(Some(file.path()), std::iter::empty(), &[], now()).unwrap_err().to_string();
    assert!(error.ends_with("save it as UTF-8"), "{error}");
}
