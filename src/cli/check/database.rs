//! Checks the database: whether it answers and suits receiptd, the role's rights, and the lease holder.

use chrono::TimeDelta;
use receiptd::{
    chat::ChatSettings,
    clock,
    config::Config,
    host::Holder,
    postgres_url::PostgresUrl,
    rules::{
        database_clock::{APART, Doubt},
        recording::KnownLimit,
        retention,
    },
    store::{ExplainedCall, Rights, Store, StoreError, Watched},
    text::counted::counted,
};
use secrecy::{ExposeSecret, SecretString};

use super::{
    super::database::{BY_SYSTEMD, Private, advice, no_database},
    finding::Finding,
};

/// Maximum difference between the clocks of the two machines without a warning.
const CLOCKS: TimeDelta = TimeDelta::seconds(5);

/// Name of the check; the service's clock has its own.
const DATABASE_CLOCK: &str = "database_clock";

/// Minimum number of days with partitions. Results of a day without one would have to wait.
const RUNWAY: usize = 3;

/// The lease holder of this app, and its last call.
pub struct Polled {
    pub holder: String,
    pub call: ExplainedCall,
}

/// Checks the database that other commands would use. Also returns the lease holder.
pub async fn look(config: &Config, chat: &ChatSettings) -> anyhow::Result<(Vec<Finding>, Option<Polled>)> {
    let url = match &config.database.url {
        Some(url) => url.clone(),
        None => match Private::find(&config.database)? {
            Private::Running(url) => url.into(),
            Private::Stopped(place) => {
                let found = format!("a private PostgreSQL in {}, which is not running", place.display());
                return Ok((vec![Finding::ok("database", found)], None));
            }
            Private::Missing(place) => {
                let remedy = format!(
                    "`receiptd run` starts it; if systemd passes the URL as a credential, check with \
                        `{BY_SYSTEMD}`"
                );
                return Ok((vec![Finding::warning("database", no_database(&place), remedy)], None));
            }
        },
    };
    let store = match Store::new(&url, config.database.max_connections, chat.sdk_app_id) {
        Ok(store) => store.with_prepared_statements(config.database.prepared_statements),
        Err(error) => return Ok((vec![Finding::wrong("database", error.to_string(), "correct database.url")], None)),
    };
    Ok(match version(&store, config).await {
        Ok(finding) if finding.remedy.is_none() => {
            let mut findings =
                vec![finding, writable(&store).await, way(&url), clocks(&store).await, rights(&store).await];
            findings.extend(schema(&store).await);
            (findings, polled(&store).await)
        }
        Ok(finding) | Err(finding) => (vec![finding], None),
    })
}

async fn writable(store: &Store) -> Finding {
    match store.read_only().await {
        Err(error) => asked("database_writes", &error),
        Ok(None) => Finding::ok("database_writes", "writable"),
        Ok(Some(why)) => {
            let (found, remedy) = why.split_once(": ").unwrap_or((why, "see the server's settings"));
            Finding::failed("database_writes", found, remedy)
        }
    }
}

/// How the connection to the database is protected.
fn way(url: &SecretString) -> Finding {
    match PostgresUrl::from_environment(url.expose_secret()).map(|url| url.exposure()) {
        Ok(None) => Finding::ok("database_tls", "data can't be read or changed on the way"),
        Ok(Some(exposure)) => {
            let remedy = "set sslmode=verify-full in database.url, and sslrootcert if the server has its own CA";
            Finding::warning("database_tls", exposure, remedy)
        }
        Err(fault) => Finding::wrong("database_tls", format!("database.url {fault}"), "correct database.url"),
    }
}

/// Errors are ignored: the earlier checks report them.
async fn polled(store: &Store) -> Option<Polled> {
    let (holder, call) = (store.holder().await.ok()??, store.last_call().await.ok()??);
    Some(Polled { holder, call })
}

async fn version(store: &Store, config: &Config) -> Result<Finding, Finding> {
    let place = config.database.to_string();
    let version = store.server_version().await.map_err(|error| {
        let remedy = advice(&error).unwrap_or("see the server's log");
        Finding::failed("database", format!("{place}: {}", said(&error)), remedy)
    })?;
    let oldest = Store::OLDEST_SERVER;
    if version < oldest {
        let remedy = format!("receiptd needs {oldest} or later");
        return Err(Finding::failed("database", format!("{place}: PostgreSQL {version} is too old"), remedy));
    }
    Ok(Finding::ok("database", format!("{place}: PostgreSQL {version}")))
}

/// The error without its remedy, which is a separate field.
fn said(error: &StoreError) -> String {
    let cause = error.cause().map_or_else(String::new, |cause| format!(": {cause}"));
    format!("{error}{cause}")
}

fn asked(check: &'static str, error: &StoreError) -> Finding {
    Finding::failed(check, said(error), advice(error).unwrap_or("see the server's log"))
}

async fn clocks(store: &Store) -> Finding {
    let ours = clock::now();
    match store.now().await {
        Err(error) => asked(DATABASE_CLOCK, &error),
        Ok(theirs) => judge_clocks(ours - theirs),
    }
}

/// `ahead` is the time by which this machine's clock is ahead of the database's.
fn judge_clocks(ahead: TimeDelta) -> Finding {
    if ahead.abs() <= CLOCKS {
        return Finding::ok(DATABASE_CLOCK, "agrees with this machine's clock");
    }
    let found = Doubt::Apart(ahead).difference();
    if ahead.abs() <= APART {
        let remedy = "set both clocks by NTP: sent_at defaults to the database's time";
        return Finding::warning(DATABASE_CLOCK, found, remedy);
    }
    let remedy = "set both clocks by NTP: until they agree nothing expires or is removed, and /readyz returns 503";
    Finding::failed(DATABASE_CLOCK, found, remedy)
}

async fn rights(store: &Store) -> Finding {
    let found = async { Ok((store.rights().await?, store.unfit().await?)) };
    match found.await {
        Err(error) => asked("rights", &error),
        Ok((_, Some(why))) => {
            let (found, remedy) = why.split_once(". ").unwrap_or((&why, "see docs/operators.md, Security"));
            Finding::failed("rights", found, remedy)
        }
        Ok((rights, None)) => judge_rights(&rights),
    }
}

fn judge_rights(Rights { role, unmade, closed }: &Rights) -> Finding {
    let each = |names: &[String], statement: &dyn Fn(&String) -> String| {
        format!("{}, as a superuser", names.iter().map(statement).collect::<Vec<_>>().join("; "))
    };
    if !unmade.is_empty() {
        let found = format!("the role {role} may not create the schema {}", unmade.join(" and "));
        return Finding::failed(
            "rights",
            found,
            each(unmade, &|name| format!("CREATE SCHEMA {name} AUTHORIZATION {role}")),
        );
    }
    if !closed.is_empty() {
        let found = format!("the role {role} may not create tables in the schema {}", closed.join(" and "));
        return Finding::failed(
            "rights",
            found,
            each(closed, &|name| format!("GRANT CREATE ON SCHEMA {name} TO {role}")),
        );
    }
    Finding::ok("rights", format!("the role {role} has the necessary rights"))
}

async fn schema(store: &Store) -> Vec<Finding> {
    let known = Store::known_schema_version();
    match store.schema_version().await {
        Err(error) => vec![asked("schema", &error)],
        Ok(None) => {
            vec![Finding::ok(
                "schema",
                format!(
                    "does not exist yet: `receiptd run` creates it, up to migration \
                {known}"
                ),
            )]
        }
        Ok(Some(version)) if version > known => {
            let found = format!("is at migration {version}, from a newer receiptd (this one knows {known})");
            vec![Finding::wrong("schema", found, "install that version, or point database.url elsewhere")]
        }
        Ok(Some(version)) if version < known => {
            vec![Finding::ok("schema", format!("is at migration {version}: `receiptd run` upgrades it to {known}"))]
        }
        Ok(Some(version)) => {
            let found = format!("is at migration {version}");
            let held = [watched(store).await, partitions(store).await, lease(store).await];
            let findings = std::iter::once(Finding::ok("schema", found)).chain(held);
            findings.chain(batch_limit(store).await).collect()
        }
    }
}

async fn watched(store: &Store) -> Finding {
    match store.count_watched().await {
        Err(error) => asked("watched", &error),
        Ok(Watched { quarantined, .. }) if quarantined > 0 => {
            let found = format!("Tencent Chat refuses {}", counted(quarantined.unsigned_abs(), "group"));
            Finding::warning("watched", found, "`receiptd watch list --state quarantined` shows them with the reasons")
        }
        Ok(Watched { groups, messages, .. }) => {
            let (messages, groups) = (messages.unsigned_abs(), groups.unsigned_abs());
            Finding::ok("watched", format!("polling {} in {}", counted(messages, "message"), counted(groups, "group")))
        }
    }
}

async fn partitions(store: &Store) -> Finding {
    match store.partitions().await.map(|partitions| retention::runway(&partitions, clock::now().date_naive())) {
        Err(error) => asked("partitions", &error),
        Ok(days) if days < RUNWAY => {
            let found = format!("only exist for {}, including today", counted(days as u64, "day"));
            Finding::warning("partitions", found, "a running receiptd creates them every hour: see its log")
        }
        Ok(days) => Finding::ok("partitions", format!("exist for {}, including today", counted(days as u64, "day"))),
    }
}

/// The known batch limit, if the service accepts fewer messages per call than configured.
async fn batch_limit(store: &Store) -> Option<Finding> {
    match store.batch_limit().await {
        Err(error) => Some(asked("batch size", &error)),
        Ok(known) => known.map(|KnownLimit { takes, refuses }| {
            Finding::ok(
                "batch size",
                format!("Tencent Chat accepts {} per call and has refused {refuses}", counted(takes as u64, "message")),
            )
        }),
    }
}

async fn lease(store: &Store) -> Finding {
    match store.holder().await {
        Err(error) => asked("lease", &error),
        Ok(Some(holder)) => Finding::ok("lease", format!("held by {}", Holder::in_words(&holder))),
        Ok(None) => Finding::ok("lease", "free: no receiptd polls this app"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict, *};

    #[test]
    fn differing_clocks_get_a_remedy_and_fail_over_a_minute() {
        for (ahead, verdict, said) in [
            (5, Verdict::Ok, "agree"),
            (-6, Verdict::Warning, "6s behind the database's"),
            (60, Verdict::Warning, "ahead of the database's"),
            (61, Verdict::Failed, "ahead of the database's"),
            (-100 * 86_400, Verdict::Failed, "100d behind the database's"),
        ] {
            let finding = judge_clocks(TimeDelta::seconds(ahead));
            assert_eq!(finding.verdict, verdict, "{ahead} s");
            assert!(finding.found.contains(said), "{}", finding.found);
            assert_eq!(finding.remedy.is_some_and(|remedy| remedy.contains("NTP")), verdict != Verdict::Ok);
        }
    }
}
