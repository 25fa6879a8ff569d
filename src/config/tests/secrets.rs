//! Secrets are read from their sources and appear nowhere else.

use secrecy::ExposeSecret;

use super::*;

const CANARY: &str = "canary-5f1d";

/// Everything that an error or a configuration can show of itself.
fn shown(loaded: Result<Config, ConfigError>) -> String {
    match loaded {
        Ok(config) => format!("{config:?} {:?} {}", config.chat(), config.database),
        Err(error) => format!("{error} {error:?}"),
    }
}

#[test]
fn a_secret_loses_surrounding_whitespace_and_byte_order_marks() {
    for written in
        ["key = with spaces", " key = with spaces \r\n", "\u{feff}key = with spaces\n\n", "\tkey = with spaces\r"]
    {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), written).unwrap();
        let app = "[chat]\nsdk_app_id = 1\nregion = \"sg\"\n";
        let by_file = load_file(&format!("{app}secret_key_file = {:?}\n", file.path()));
        let by_variable = load(app, &[("RECEIPTD_CHAT__SECRET_KEY", written)], &[]);
        for loaded in [by_file, by_variable] {
            let chat = loaded.unwrap().chat().unwrap();
            let Credential::SecretKey(key) = chat.credential else { panic!("{chat:?}") };
            assert_eq!(key.expose_secret(), "key = with spaces", "{written:?}");
        }
    }
}

#[test]
fn a_secret_in_quotes_or_of_several_lines_is_refused() {
    for (written, why) in [("\"5f1d\"", "quotes around it"), ("'5f1d'\n", "quotes around it"), ("5f\n1d", "line break")]
    {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), written).unwrap();
        let refusal = load_file(&format!("[chat]\nsecret_key_file = {:?}\n", file.path())).unwrap_err().to_string();
        assert!(refusal.contains("chat.secret_key") && refusal.contains(why) && !refusal.contains("5f1d"), "{refusal}");
    }
}

#[test]
fn an_unusable_secret_file_is_reported_with_its_key_and_path() {
    let missing = load_file("[chat]\nsecret_key_file = \"/nowhere/key\"").unwrap_err().to_string();
    for words in ["chat.secret_key_file", "\"/nowhere/key\"", "No such file"] {
        assert!(missing.contains(words), "{missing}");
    }
    let endless = load_file("[chat]\nuser_sig_file = \"/dev/zero\"").unwrap_err().to_string();
    assert!(endless.contains("is larger than"), "{endless}");
    let empty = load_file("[database]\nurl_file = \"/dev/null\"").unwrap_err().to_string();
    assert!(empty.contains("database.url") && empty.contains("is empty"), "{empty}");
}

#[test]
fn a_valid_configuration_shows_no_secret() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), CANARY).unwrap();
    let path = file.path().display();
    for text in [
        format!("[chat]\nsdk_app_id = 1\nregion = \"sg\"\nsecret_key = \"{CANARY}\""),
        format!("[chat]\nsdk_app_id = 1\nregion = \"sg\"\nuser_sig = \"{CANARY}\""),
        format!("[chat]\nsdk_app_id = 1\nregion = \"sg\"\nsecret_key_file = \"{path}\""),
        format!("[database]\nurl = \"postgres://me:{CANARY}@db.example:5433/history\""),
        format!("[database]\nurl = \"postgres://db.example/history?user=me&password={CANARY}\""),
        format!("[webhooks]\nlisten = \"127.0.0.1:1\"\npath = \"/{CANARY}\"\ntoken = \"{CANARY}{CANARY}{CANARY}\""),
    ] {
        let loaded = load_file(&text);
        assert!(loaded.is_ok(), "{loaded:?}");
        assert!(!shown(loaded).contains(CANARY), "{text}");
    }
}

#[test]
fn no_refusal_shows_a_secret() {
    for text in [
        format!("[chat]\nsecret_key = \"{CANARY}\"\nsecret_key_file = \"/f\""),
        format!("[chat]\nuser_sig = \"{CANARY}\"\nsecret_key = \"{CANARY}\"\nregion = \"eu\""),
        format!("[chat]\nsecret_key = [\"{CANARY}\"]"),
        format!("[chat.secret_key]\nx = \"{CANARY}\""),
        format!("[chat]\nsecret_kye = \"{CANARY}\""),
        format!("[chat]\nsecret_key = \"{CANARY}"),
        format!("[chat]\nsecret_key = {CANARY}"),
        format!("[chat]\nsecret_key = \"{CANARY}\" x"),
        format!("[chat]\nsecret_key = \"\"\"{CANARY}\n{CANARY}\n"),
        format!("[chat]\nendpoint = \"https://me:{CANARY}@chat.example\""),
        format!("[webhooks]\npath = \"{CANARY}\""),
        format!("[webhooks]\ntoken = \"{CANARY}\"\ntoken_file = \"/f\""),
        format!("[webhooks]\nprevious_token = \"{CANARY}\""),
        format!("[webhooks]\nforward = \"https://me:{CANARY}@x.example/\""),
        format!("[database]\nurl = \"mysql://me:{CANARY}@db/x\""),
        format!("[database]\nurl = \"postgres://me:{CANARY}@db:port/x\""),
        format!("[database]\nurl = \"postgres://me@db/x?sslmode={CANARY}\""),
        format!("[database]\nurl = \"postgres://db/x?password={CANARY}\""),
        format!("[database]\nurl = \"{CANARY}\"\nurl_file = \"/f\""),
        format!("chat = \"{CANARY}\""),
    ] {
        let loaded = load_file(&text);
        assert!(loaded.is_err(), "{text}");
        let shown = shown(loaded);
        assert!(!shown.contains(CANARY), "{text}\n{shown}");
    }
}

#[test]
fn a_command_line_secret_is_refused_unprinted_with_a_remedy() {
    for key in ["chat.secret_key", "chat.user_sig", "database.url", "webhooks.token", "webhooks.path"] {
        let error = load("", &[], &[(key, CANARY)]).unwrap_err();
        let text = format!("{error} {error:?}");
        let variable = format!("RECEIPTD_{}", key.replace('.', "__").to_uppercase());
        assert!(!text.contains(CANARY) && text.contains(&format!("{key}_file")) && text.contains(&variable), "{text}");
    }
}

#[test]
fn a_number_without_quotes_is_no_secret() {
    let error = load_file("[chat]\nsecret_key = 1234567").unwrap_err().to_string();
    assert!(error.contains("chat.secret_key") && error.contains("in quotes") && !error.contains("1234567"), "{error}");
}

#[test]
fn a_syntax_error_tells_its_place_and_reason() {
    let error = load_file("[chat]\nregion = \"sg\n").unwrap_err().to_string();
    assert!(error.contains("line 2, column") && error.contains("is not valid TOML"), "{error}");
}

#[test]
fn the_database_is_shown_by_user_host_and_name() {
    let display = |url: &str| load("", &[("DATABASE_URL", url)], &[]).unwrap().database.to_string();
    assert_eq!(display("postgres://me:pw@db.example:5433/history"), "postgres://me:***@db.example:5433/history");
    assert_eq!(display("postgresql:///history?host=/run/postgresql&user=me"), "postgres://me@/run/postgresql/history");
    assert_eq!(display("postgres://db/history?user=me&password=pw"), "postgres://me:***@db:5432/history");
    let private = load_file("[database]\ndata_dir = \"/var/lib/x\"").unwrap().database;
    assert_eq!(private.to_string(), "a private PostgreSQL in /var/lib/x");
}

#[test]
fn files_with_secrets_that_others_can_read_are_named() {
    use std::os::unix::fs::PermissionsExt;
    let exposed = |text: &str, environment: &[(&str, &str)]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        let config = Config::load(Some(file.path()), pairs(environment).into_iter(), &[], now()).unwrap();
        config.exposed_files.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), CANARY).unwrap();
    let by_file = format!("[chat]\nsdk_app_id = 1\nregion = \"sg\"\nsecret_key_file = {:?}\n", key.path());
    assert!(exposed(&by_file, &[]).is_empty(), "neither file is both secret and open");
    std::fs::set_permissions(key.path(), std::fs::Permissions::from_mode(0o604)).unwrap();
    let named = exposed(&by_file, &[]);
    assert!(named.len() == 1 && named[0].contains(&key.path().display().to_string()), "{named:?}");
    assert!(exposed(&by_file, &[("RECEIPTD_CHAT__SECRET_KEY", "s")]).is_empty(), "it is not used");
    assert_eq!(exposed("[chat]\nuser_sig = \"s\"\n", &[]).len(), 1);
    assert_eq!(exposed("[database]\nurl = \"postgres://me:pass@h/d\"\n", &[]).len(), 1);
    assert!(exposed("[database]\nurl = \"postgres://me@h/d\"\n", &[]).is_empty());
}
