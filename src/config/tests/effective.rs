//! The output of `receiptd config`.

use super::*;

fn shown(config: &Config, key: &str) -> (Option<String>, Option<String>) {
    let setting = config.settings.iter().find(|setting| setting.key == key).unwrap();
    (setting.value.clone(), setting.origin.clone())
}

fn pair(value: &str, origin: &str) -> (Option<String>, Option<String>) {
    (Some(value.to_owned()), Some(origin.to_owned()))
}

#[test]
fn every_setting_is_shown_with_its_value_and_where_it_came_from() {
    let text = "[polling]\nbatch_size = 10\n[cadence.mornings]\ncron = \"0 8 * * *\"\n";
    let config = load(text, &[("RECEIPTD_LOG__LEVEL", "debug")], &[("http.listen", "off")]).unwrap();
    let (value, origin) = shown(&config, "polling.batch_size");
    assert_eq!(value.unwrap(), "10");
    assert!(origin.unwrap().starts_with('/'), "the file");
    assert_eq!(shown(&config, "log.level"), pair("\"debug\"", "RECEIPTD_LOG__LEVEL"));
    assert_eq!(shown(&config, "http.listen"), pair("\"off\"", "--set"));
    assert_eq!(shown(&config, "polling.max_in_flight"), pair("400", "default"));
    assert_eq!(shown(&config, "chat.sdk_app_id"), (None, None), "what the reference has is an example");
    let tiers = shown(&config, "cadence.default.tiers").0.unwrap();
    assert!(tiers.starts_with("[{ until = \"1h\", every = \"1m\" }, "), "{tiers}");
    assert_eq!(shown(&config, "cadence.mornings.cron").0.unwrap(), "\"0 8 * * *\"");
    assert_eq!(shown(&config, "cadence.mornings.tiers"), (None, None));
    assert_eq!(shown(&config, "cadence.mornings.stop_when_all_read"), pair("true", "default"));
}

#[test]
fn a_custom_default_cadence_has_no_pace_unless_set() {
    let tiers = "[cadence.default]\ntiers = [{ until = \"1h\", every = \"5m\" }]\n";
    let config = load_file(tiers).unwrap();
    assert_eq!(shown(&config, "cadence.default.pace"), (None, None));
    assert!(config.cadences.of(None).pace().is_none());
    let config = load_file(&format!("{tiers}pace = \"24m\"\n")).unwrap();
    assert_eq!(shown(&config, "cadence.default.pace").0.unwrap(), "\"24m\"");
    let pace = config.cadences.of(None).pace().copied().unwrap();
    assert_eq!((pace.pace.as_secs(), pace.patience, pace.fastest.as_secs()), (1_440, 8, 150));
    let config = load_file("[cadence.default]\npace = \"6m\"\n").unwrap();
    assert_eq!(config.cadences.of(None).pace().unwrap().pace.as_secs(), 360, "with the tiers that are built in");
    let config = load_file("[cadence.default]\ncron = \"0 8 * * *\"\n").unwrap();
    assert_eq!(shown(&config, "cadence.default.tiers"), (None, None));
}

#[test]
fn secrets_print_as_stars_and_losing_alternatives_not_at_all() {
    let text = "[chat]\nsecret_key = \"canary\"\nregion = \"sg\"\n[database]\nurl_file = \"/nowhere\"\n";
    let over = [("DATABASE_URL", "postgres://a:canary@b/c"), ("RECEIPTD_CHAT__ENDPOINT", "http://127.0.0.1:1")];
    let config = load(text, &over, &[]).unwrap();
    assert_eq!(shown(&config, "chat.secret_key").0.unwrap(), "\"***\"");
    assert_eq!(shown(&config, "database.url"), pair("\"***\"", "DATABASE_URL"));
    assert_eq!(shown(&config, "database.url_file"), (None, None));
    assert_eq!(shown(&config, "chat.region"), (None, None));
    assert!(!format!("{:?}", config.settings).contains("canary"));
}

#[test]
fn what_is_shown_of_the_defaults_is_what_holds_without_a_file() {
    let built_in = Config::load(None, std::iter::empty(), &[], now()).unwrap();
    let line = |setting: &Setting| Some(format!("{} = {}\n", setting.key, setting.value.as_ref()?));
    let file: String = built_in.settings.iter().filter_map(line).collect();
    let comparable = |config: Config| format!("{:?}", Config { settings: vec![], ..config });
    assert_eq!(comparable(load_file(&file).unwrap()), comparable(built_in));
}
