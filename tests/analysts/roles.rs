//! Each role can do what it should, and nothing else.

use receiptd::store::Store;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    common::TestDatabase,
    rig::{APP, app},
};

/// A database with a login role that is a member of `role`, as the README says to make it.
pub struct Member {
    pub database: TestDatabase,
    login: String,
}

impl Member {
    pub async fn of(role: &str) -> Self {
        let database = TestDatabase::new().await;
        let url = database.url();
        Self::in_database(database, &url, role).await
    }

    /// The same where the schema belongs to an ordinary role, as it should, and there are two apps in it.
    async fn of_two_apps(role: &str) -> Self {
        let database = TestDatabase::new().await;
        let owner = format!("owner_of_{}", database.name());
        database.psql(&format!("CREATE ROLE {owner} LOGIN; GRANT CREATE ON DATABASE {} TO {owner}", database.name()));
        let url = database.url().replace("//postgres@", &format!("//{owner}@"));
        let member = Self::in_database(database, &url, role).await;
        member.database.psql(&format!("SET ROLE {owner}; {TWO_APPS}"));
        member
    }

    async fn in_database(database: TestDatabase, url: &str, role: &str) -> Self {
        // Tests share the server: another may make the same role just now.
        database.psql(&format!(
            "DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        ));
        let store = Store::new(&url.into(), 2, app()).unwrap();
        store.migrate().await.unwrap();
        let login = format!("{role}_of_{}", database.name());
        database.psql(&format!("CREATE ROLE {login} LOGIN IN ROLE {role}"));
        Self { database, login }
    }

    /// Runs a statement as the role: the error, if it is refused.
    async fn tries(&self, sql: &str) -> Result<(), String> {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut self.connect().await)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// How many rows a query gives the role.
    pub async fn count(&self, sql: &str) -> usize {
        let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut self.connect().await).await;
        rows.unwrap_or_else(|error| panic!("{sql}: {error}")).len()
    }

    async fn connect(&self) -> PgConnection {
        let url = self.database.url().replace("//postgres@", &format!("//{}@", self.login));
        PgConnection::connect(&url).await.unwrap()
    }

    async fn may(&self, sql: &str) {
        assert_eq!(self.tries(sql).await, Ok(()), "{sql}");
    }

    async fn may_not(&self, sql: &str) {
        let refused = self.tries(sql).await.expect_err(sql);
        assert!(refused.contains("permission denied"), "{sql}: {refused}");
    }
}

/// Every relation of the schema of these kinds, but the partitions.
fn relations(database: &TestDatabase, kinds: &str) -> Vec<String> {
    let names = database.psql(&format!(
        "SELECT relname FROM pg_class WHERE relnamespace = 'receiptd'::regnamespace AND relkind IN ({kinds})
            AND NOT relispartition ORDER BY 1"
    ));
    names.lines().map(str::to_owned).collect()
}

const TABLES: &str = "'r', 'p'";
const TABLES_AND_VIEWS: &str = "'r', 'p', 'v'";

fn functions(database: &TestDatabase) -> Vec<String> {
    let names = database.psql("SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'receiptd'::regnamespace");
    names.lines().map(str::to_owned).collect()
}

const READ: [&str; 14] = [
    "api_calls",
    "data_freshness",
    "group_engagement",
    "group_receipts_hourly",
    "hourly_receipts",
    "latest_receipts",
    "message_milestones",
    "never_read",
    "poll_coverage",
    "poll_gaps",
    "read_speed",
    "receipt_history",
    "receipt_snapshots",
    "unread_backlog",
];

#[tokio::test]
async fn a_reader_reads_what_analysts_need_and_nothing_else_and_writes_nothing() {
    let member = Member::of("receiptd_reader").await;
    for relation in relations(&member.database, TABLES_AND_VIEWS) {
        let select = format!("SELECT * FROM receiptd.{relation}");
        match READ.contains(&relation.as_str()) {
            true => member.may(&select).await,
            false => member.may_not(&select).await,
        }
    }
    for table in relations(&member.database, TABLES) {
        member.may_not(&format!("DELETE FROM receiptd.{table}")).await;
    }
    member.may("SELECT group_key, group_id, state FROM receiptd.watched_groups").await;
    member.may_not("SELECT probe_at FROM receiptd.watched_groups").await;
    member.may("SELECT * FROM receiptd.receipts_at(now())").await;
    member.may("SELECT * FROM receiptd.receipt_curve('g', 1, '1 hour')").await;
    member.may_not(&format!("SELECT receiptd.watch_messages({APP}, 'g', ARRAY[1])")).await;
    member.may_not("CREATE TABLE receiptd.mine ()").await;
}

#[tokio::test]
async fn new_partitions_need_no_grant() {
    let member = Member::of("receiptd_reader").await;
    member.database.psql(
        "SELECT receiptd.ensure_partition('receipt_snapshots', '2027-03-01');
         INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, code) VALUES (1, 1, '2027-03-01 12:00Z', 10062)",
    );
    member.may("SELECT 1 / count(*) FROM receiptd.receipt_snapshots WHERE polled_at >= '2027-03-01Z'").await;
}

#[tokio::test]
async fn a_writer_watches_by_the_functions_and_touches_no_table() {
    let member = Member::of("receiptd_writer").await;
    for relation in relations(&member.database, TABLES_AND_VIEWS) {
        member.may_not(&format!("SELECT * FROM receiptd.{relation}")).await;
    }
    for table in relations(&member.database, TABLES) {
        member.may_not(&format!("INSERT INTO receiptd.{table} DEFAULT VALUES")).await;
    }
    member
        .may(&format!(
            "SELECT receiptd.watch_group({APP}, 'g'), receiptd.watch_messages({APP}, 'g', ARRAY[1, 2, 3]),
                receiptd.unwatch_messages({APP}, 'g', ARRAY[3]), receiptd.pause_group({APP}, 'g'),
                receiptd.resume_group({APP}, 'g'), receiptd.unwatch_group({APP}, 'g')"
        ))
        .await;
    assert_eq!(member.database.psql("SELECT count(*) FROM receiptd.watched_messages"), "3");
    member.may_not("SELECT receiptd.ensure_partition('api_calls', '2027-01-01')").await;
    member.may_not("SELECT receiptd.watch_keys('{1}', '{1}', '{now}')").await;
    member.may_not("SELECT * FROM receiptd.receipts_at(now())").await;
}

#[tokio::test]
async fn nobody_else_may_call_anything() {
    let member = Member::of("receiptd_reader").await;
    let stranger = format!("stranger_to_{}", member.database.name());
    member.database.psql(&format!("CREATE ROLE {stranger}; GRANT USAGE ON SCHEMA receiptd TO {stranger}"));
    // It tells a role which apps are its own, and is asked where that limits what the role sees.
    let anybodys = "receiptd.apps_of_caller()";
    for function in functions(&member.database).iter().filter(|function| *function != anybodys) {
        let may = format!("SELECT has_function_privilege('{stranger}', '{function}', 'EXECUTE')");
        assert_eq!(member.database.psql(&may), "f", "{function}");
    }
}

#[tokio::test]
async fn roles_that_are_made_after_the_schema_get_their_rights_at_the_next_start() {
    let member = Member::of("receiptd_reader").await;
    member.database.psql("REVOKE ALL ON receiptd.latest_receipts FROM receiptd_reader");
    member.may_not("SELECT * FROM receiptd.latest_receipts").await;
    let store = Store::new(&member.database.url().into(), 2, app()).unwrap();
    store.migrate().await.unwrap();
    member.may("SELECT * FROM receiptd.latest_receipts").await;
}

/// A row of everything that analysts read for two apps, this one and app 77.
const TWO_APPS: &str = "
    SELECT receiptd.ensure_partition(t, current_date) FROM unnest(ARRAY['receipt_snapshots', 'api_calls']) AS t;
    SELECT receiptd.watch_messages(app, 'g', ARRAY[1]) FROM unnest(ARRAY[1400000000, 77]) AS app;
    UPDATE receiptd.watched_messages SET read_num = 0, unread_num = 2, receipt_code = 0, first_polled_at = now(),
        last_changed_at = now(), known_until = now();
    INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, read_num, unread_num, code)
        SELECT group_key, 1, now(), 0, 2, 0 FROM receiptd.watched_groups;
    INSERT INTO receiptd.api_calls
        SELECT now(), group_key, 1, 1, 1, 0, 'success', 0, 200, 1, NULL, now() FROM receiptd.watched_groups;
    INSERT INTO receiptd.message_milestones (group_key, msg_seq, sent_at)
        SELECT group_key, 1, now() FROM receiptd.watched_groups;
    INSERT INTO receiptd.group_receipts_hourly (group_key, hour)
        SELECT group_key, date_trunc('hour', now(), 'UTC') FROM receiptd.watched_groups;
    INSERT INTO receiptd.poll_gaps SELECT group_key, now() - interval '1 hour', now(), 1, 'waiting' FROM receiptd.watched_groups;
    INSERT INTO receiptd.poller_leases (sdk_app_id, epoch, acquired_at, expires_at, rolled_up_until)
        SELECT app, 1, now(), now(), now() FROM unnest(ARRAY[1400000000, 77]) AS app;";

#[tokio::test]
async fn a_reader_sees_the_apps_of_its_role_and_all_where_no_role_has_any() {
    let member = Member::of_two_apps("receiptd_reader").await;
    let functions = ["receipts_at(now())", "receipt_curve('g', 1, '1 hour')"].map(str::to_owned);
    let relations = || READ.iter().map(|name| (*name).to_owned()).chain(functions.clone());
    let give = |sql: &str| member.database.psql(&sql.replace("$role", &member.login));
    for (change, rows) in [
        ("SELECT 1", 2),
        ("INSERT INTO receiptd.role_apps VALUES ('$role', 1400000000)", 1),
        ("UPDATE receiptd.role_apps SET sdk_app_id = 5", 0),
        ("INSERT INTO receiptd.role_apps VALUES ('$role', 77), ('$role', 1400000000)", 2),
        ("DELETE FROM receiptd.role_apps", 2),
    ] {
        give(change);
        for relation in relations() {
            // Of the curve each message has one step.
            let seen = member.count(&format!("SELECT 1 FROM receiptd.{relation}")).await;
            assert_eq!(seen, rows, "{relation} after {change}");
        }
        let seen = member.count("SELECT group_key FROM receiptd.watched_groups").await;
        assert_eq!(seen, rows, "watched_groups after {change}");
    }
    let left = "SELECT count(*) FROM pg_class WHERE relnamespace = 'receiptd'::regnamespace
        AND (relrowsecurity OR relforcerowsecurity)";
    assert_eq!(member.database.psql(left), "0", "it costs nothing where nobody wants it");
}

#[tokio::test]
async fn one_of_many_roles_of_a_pooled_login_sees_its_own_apps_alone() {
    let member = Member::of_two_apps("receiptd_reader").await;
    let (login, tenant) = (&member.login, format!("tenant_in_{}", member.database.name()));
    member.database.psql(&format!(
        "CREATE ROLE {tenant} IN ROLE receiptd_reader; GRANT {tenant} TO {login};
         INSERT INTO receiptd.role_apps VALUES ('{tenant}', 77), ('{login}', 1400000000)"
    ));
    let mut connection = member.connect().await;
    for (role, apps) in [("NONE", "{77,1400000000}"), (tenant.as_str(), "{77}")] {
        let set = AssertSqlSafe(format!("SET ROLE {role}"));
        sqlx::raw_sql(set).execute(&mut connection).await.unwrap();
        let seen: Vec<i64> = sqlx::query_scalar("SELECT sdk_app_id FROM receiptd.latest_receipts ORDER BY 1")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let seen = format!("{{{}}}", seen.iter().map(i64::to_string).collect::<Vec<_>>().join(","));
        assert_eq!(seen, apps, "{role}");
    }
}

#[tokio::test]
async fn a_writer_changes_nothing_of_another_app() {
    let member = Member::of_two_apps("receiptd_writer").await;
    member.database.psql(&format!("INSERT INTO receiptd.role_apps VALUES ('{}', {APP})", member.login));
    for call in [
        "watch_group($app, 'g')",
        "watch_messages($app, 'g', ARRAY[2])",
        "unwatch_messages($app, 'g', ARRAY[2])",
        "pause_group($app, 'g')",
        "resume_group($app, 'g')",
        "unwatch_group($app, 'g')",
    ] {
        member.may(&format!("SELECT receiptd.{}", call.replace("$app", "1400000000"))).await;
        let refused = member.tries(&format!("SELECT receiptd.{}", call.replace("$app", "77"))).await.unwrap_err();
        assert!(refused.contains("permission denied for app 77"), "{call}: {refused}");
    }
    assert_eq!(member.database.psql("SELECT state FROM receiptd.watched_groups WHERE sdk_app_id = 77"), "active");
    member.may_not("INSERT INTO receiptd.role_apps VALUES (current_user::regrole, 77)").await;
}

#[tokio::test]
async fn rights_by_app_are_refused_where_they_would_not_hold() {
    let member = Member::of("receiptd_reader").await;
    let mut superuser = PgConnection::connect(&member.database.url()).await.unwrap();
    let give = AssertSqlSafe(format!("INSERT INTO receiptd.role_apps VALUES ('{}', {APP})", member.login));
    let refused = sqlx::raw_sql(give).execute(&mut superuser).await.unwrap_err().to_string();
    assert!(refused.contains("is a superuser"), "{refused}");
}
