//! Each role can do what it should, and nothing else.

mod apps;

use receiptd::store::Store;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use self::apps::TWO_APPS;
use crate::{
    common::TestDatabase,
    harness::{APP, app},
};

/// A database with a login role that is a member of `role`, created as in the README.
pub struct Member {
    pub database: TestDatabase,
    pub login: String,
}

impl Member {
    pub async fn of(role: &str) -> Self {
        let database = TestDatabase::new().await;
        let url = database.url();
        Self::in_database(database, &url, role).await
    }

    /// The same with an ordinary role as the schema's owner, as it should be, and two apps.
    pub async fn of_two_apps(role: &str) -> Self {
        let database = TestDatabase::new().await;
        let owner = format!("owner_of_{}", database.name());
        database.psql(&format!("CREATE ROLE {owner} LOGIN; GRANT CREATE ON DATABASE {} TO {owner}", database.name()));
        let url = database.url().replace("//postgres@", &format!("//{owner}@"));
        let member = Self::in_database(database, &url, role).await;
        member.database.psql(&format!("SET ROLE {owner}; {TWO_APPS}"));
        member
    }

    async fn in_database(database: TestDatabase, url: &str, role: &str) -> Self {
        // Tests share the server: another one may be creating the same role.
        database.psql(&format!(
            "DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        ));
        let store = Store::new(&url.into(), 2, app()).unwrap();
        store.migrate().await.unwrap();
        let login = format!("{role}_of_{}", database.name());
        database.psql(&format!("CREATE ROLE {login} LOGIN IN ROLE {role}"));
        Self { database, login }
    }

    /// Every table and view of the schema except partitions.
    pub fn relations(&self) -> Vec<String> {
        relations(&self.database, TABLES_AND_VIEWS)
    }

    /// Runs a statement as the role. Returns the error, if it is refused.
    async fn tries(&self, sql: &str) -> Result<(), String> {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut self.connect().await)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// The number of rows that a query returns for the role.
    pub async fn count(&self, sql: &str) -> usize {
        let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut self.connect().await).await;
        rows.unwrap_or_else(|error| panic!("{sql}: {error}")).len()
    }

    async fn connect(&self) -> PgConnection {
        let url = self.database.url().replace("//postgres@", &format!("//{}@", self.login));
        PgConnection::connect(&url).await.unwrap()
    }

    pub async fn may(&self, sql: &str) {
        assert_eq!(self.tries(sql).await, Ok(()), "{sql}");
    }

    pub async fn may_not(&self, sql: &str) {
        let refused = self.tries(sql).await.expect_err(sql);
        assert!(refused.contains("permission denied"), "{sql}: {refused}");
    }
}

/// Every relation of these kinds in the schema, except partitions.
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

const READ: [&str; 19] = [
    "age_at_read",
    "api_calls",
    "data_freshness",
    "group_engagement",
    "group_receipts_hourly",
    "groups",
    "hourly_receipts",
    "latest_receipts",
    "message_days",
    "message_milestones",
    "message_receipts_daily",
    "messages",
    "never_read",
    "poll_coverage",
    "poll_gaps",
    "read_speed",
    "receipt_history",
    "receipt_snapshots",
    "unread_backlog",
];

#[tokio::test]
async fn a_reader_reads_only_data_for_analysts_and_writes_nothing() {
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
    member.may("SELECT * FROM receiptd.read_at_age('1 hour')").await;
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
    member.may_not("SELECT receiptd.watch_keys('{1}', '{1}', '{now}', NULL)").await;
    member.may_not("SELECT * FROM receiptd.receipts_at(now())").await;
}

#[tokio::test]
async fn nobody_else_may_call_anything() {
    let member = Member::of("receiptd_reader").await;
    let stranger = format!("stranger_to_{}", member.database.name());
    member.database.psql(&format!("CREATE ROLE {stranger}; GRANT USAGE ON SCHEMA receiptd TO {stranger}"));
    // It shows a role its own apps, and is called if they limit what the role sees.
    let anybodys = "receiptd.apps_of_caller()";
    for function in functions(&member.database).iter().filter(|function| *function != anybodys) {
        let may = format!("SELECT has_function_privilege('{stranger}', '{function}', 'EXECUTE')");
        assert_eq!(member.database.psql(&may), "f", "{function}");
    }
}

#[tokio::test]
async fn roles_made_after_the_schema_get_rights_at_the_next_start() {
    let member = Member::of("receiptd_reader").await;
    member.database.psql("REVOKE ALL ON receiptd.latest_receipts FROM receiptd_reader");
    member.may_not("SELECT * FROM receiptd.latest_receipts").await;
    let store = Store::new(&member.database.url().into(), 2, app()).unwrap();
    store.migrate().await.unwrap();
    member.may("SELECT * FROM receiptd.latest_receipts").await;
}
