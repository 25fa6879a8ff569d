//! The part of `receiptd check` that asks the database and Tencent Chat themselves.

use std::time::Duration;

use receiptd::{
    chat::{Attempt, ChatClient, ChatSettings, Class, error_class},
    config::{Chat, Config},
    domain::{GroupId, MsgSeq},
    store::{Store, Watched},
};

/// What was looked at, and what was found or is wrong.
pub struct Finding {
    pub what: &'static str,
    pub result: Result<String, String>,
}

/// No group has this id, hopefully: the service answers that it is gone, and has accepted the signature by then.
const NO_GROUP: &str = "receiptd-check";

/// Asks the database for its version and its schema, and the service for a group that does not exist.
pub async fn look(config: &Config, chat: Chat) -> Vec<Finding> {
    let mut findings = database(config, &chat).await;
    findings.push(Finding { what: "service", result: service(chat, config.polling.request_timeout).await });
    findings
}

async fn database(config: &Config, chat: &Chat) -> Vec<Finding> {
    let Some(url) = &config.database.url else { return vec![] };
    let found = |result| vec![Finding { what: "database", result }];
    let store = match Store::new(url, config.database.max_connections, chat.sdk_app_id) {
        Ok(store) => store,
        Err(error) => return found(Err(error.to_string())),
    };
    match store.server_version().await {
        Ok(version) if version < Store::OLDEST_SERVER => {
            found(Err(format!("PostgreSQL {version} is too old: receiptd needs {} or later", Store::OLDEST_SERVER)))
        }
        Ok(version) => {
            let mut findings = found(Ok(format!("{}: PostgreSQL {version}", config.database)));
            findings.push(Finding { what: "schema", result: schema(&store).await });
            findings
        }
        Err(error) => found(Err(format!("{}: {}", config.database, error.explain()))),
    }
}

async fn schema(store: &Store) -> Result<String, String> {
    let known = Store::known_schema_version();
    match store.schema_version().await {
        Ok(None) => Ok(format!("not there yet: `receiptd run` makes it, up to migration {known}")),
        Ok(Some(version)) if version > known => {
            Err(format!("is at migration {version}, which only a newer receiptd knows (this one: {known})"))
        }
        Ok(Some(version)) if version < known => {
            Ok(format!("is at migration {version}: `receiptd run` brings it to {known}"))
        }
        Ok(Some(version)) => {
            let watched = store.count_watched().await.map_err(|error| error.explain())?;
            let Watched { groups, messages, .. } = watched;
            Ok(format!("is at migration {version}; {messages} messages in {groups} groups of this app are polled"))
        }
        Err(error) => Err(error.explain()),
    }
}

/// One signed call: whatever is said of the group, the app and its signature were accepted.
async fn service(chat: Chat, request_timeout: Duration) -> Result<String, String> {
    let destination = chat.destination.to_string();
    let settings = ChatSettings {
        sdk_app_id: chat.sdk_app_id,
        identifier: chat.identifier,
        credential: chat.credential,
        destination: chat.destination,
        request_timeout,
        max_connections: 1,
    };
    let client = ChatClient::new(settings).map_err(|error| error.to_string())?;
    let group: GroupId = NO_GROUP.parse().map_err(|error| format!("{error}"))?;
    let seq = MsgSeq::try_from(1).map_err(|error| error.to_string())?;
    judge(&destination, &client.get_receipts(&group, &[seq]).await)
}

fn judge(destination: &str, attempt: &Attempt) -> Result<String, String> {
    let failure = match (&attempt.outcome, attempt.class()) {
        (Err(failure), class) if !matches!(class, Class::GroupFault | Class::Split | Class::Message) => failure,
        _ => return Ok(format!("{destination} accepts the signature, in {} ms", attempt.latency.as_millis())),
    };
    let code = failure.code.map_or_else(String::new, |code| format!(" with code {code}"));
    let remedy = failure.code.and_then(error_class::remedy).map_or_else(String::new, |remedy| format!(": {remedy}"));
    Err(format!("{destination} refuses the call{code} ({}){remedy}", failure.info))
}
