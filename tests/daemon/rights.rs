//! The rights that the daemon's role needs in the database, as in docs/operators.md, and the errors without them.

use receiptd::{lifecycle::Daemon, store::Store};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::{
    common::TestDatabase,
    harness::{APP, Harness, app, group, simulator_config},
};

/// A database that only its owner may use, and a role that may only connect to it. Returns the role's URL.
async fn role_that_may_connect(database: &TestDatabase) -> String {
    let name = database.name();
    let role = format!("owner_of_{name}");
    database.psql(&format!(
        "CREATE ROLE {role} LOGIN; REVOKE ALL ON DATABASE {name} FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC;
         GRANT CONNECT ON DATABASE {name} TO {role}"
    ));
    database.url().replace("//postgres@", &format!("//{role}@"))
}

/// Lets a daemon do everything that it does in a database: create the schema, slot, poll, store, close, quarantine.
async fn everything_works(database: TestDatabase, url: &str, then: impl FnOnce(&TestDatabase)) {
    let mut rig = Harness::in_database(database, url, simulator_config()).await;
    rig.start().await;
    rig.watch("g", 1..=3).await;
    rig.simulator.world().set_group_code(&group("gone"), 10_010);
    rig.watch("gone", 1..=3).await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE known_until IS NOT NULL) = 3").await;
    rig.until("EXISTS (SELECT FROM receiptd.watched_groups WHERE state <> 'active')").await;
    rig.stop().await;
    let store = Store::new(&rig.settings.database_url, 2, app()).unwrap();
    store.roll_up_next(receiptd::clock::now()).await.unwrap();
    then(&rig.database);
}

#[tokio::test]
async fn a_role_that_owns_the_schema_needs_no_more_than_to_connect() {
    let database = TestDatabase::new().await;
    let url = role_that_may_connect(&database).await;
    database.psql(&format!(
        "CREATE SCHEMA receiptd AUTHORIZATION owner_of_{0}; CREATE SCHEMA receiptd_partitions AUTHORIZATION owner_of_{0}",
        database.name()
    ));
    everything_works(database, &url, |_| ()).await;
}

#[tokio::test]
async fn a_role_that_may_make_schemas_makes_its_own() {
    let database = TestDatabase::new().await;
    let url = role_that_may_connect(&database).await;
    database.psql(&format!("GRANT CREATE ON DATABASE {0} TO owner_of_{0}", database.name()));
    everything_works(database, &url, |_| ()).await;
}

#[tokio::test]
async fn a_role_without_these_rights_is_told_which_it_lacks() {
    let database = TestDatabase::new().await;
    let url = role_that_may_connect(&database).await;
    let store = Store::new(&url.into(), 2, app()).unwrap();
    let error = store.migrate().await.unwrap_err();
    assert!(!error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("GRANT CREATE ON DATABASE"), "{error}");
    let both = ["receiptd".to_owned(), "receiptd_partitions".to_owned()];
    assert_eq!(store.rights().await.unwrap().unmade, both);
    let owner = format!("owner_of_{}", database.name());
    database.psql(&format!("CREATE SCHEMA receiptd AUTHORIZATION {owner}"));
    assert_eq!(store.rights().await.unwrap().unmade, both[1..]);
    assert!(store.migrate().await.unwrap_err().to_string().contains("receiptd_partitions"));
    database.psql(&format!("CREATE SCHEMA receiptd_partitions AUTHORIZATION {owner}"));
    store.migrate().await.unwrap();
    let rights = store.rights().await.unwrap();
    assert!(rights.unmade.is_empty() && rights.closed.is_empty(), "{rights:?}");
    database.psql(&format!("REVOKE CREATE ON SCHEMA receiptd_partitions FROM {owner}"));
    assert_eq!(store.rights().await.unwrap().closed, both[1..]);
}

/// Objects that a role with the right to create in `public` can plant there to be used instead of PostgreSQL's own.
/// Each one notes who runs it.
const SHADOWS: &str = "
    CREATE TABLE public.stolen (by text);
    GRANT ALL ON public.stolen TO PUBLIC;
    CREATE FUNCTION public.steal() RETURNS bigint LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.stolen VALUES (current_user); RETURN 1; END $$;
    CREATE FUNCTION public.hashtextextended(text, integer) RETURNS bigint LANGUAGE sql AS 'SELECT public.steal()';
    CREATE FUNCTION public.to_regclass(text) RETURNS regclass LANGUAGE sql AS
        $$ SELECT public.steal(); SELECT NULL::regclass $$;
    CREATE FUNCTION public.to_regnamespace(text) RETURNS regnamespace LANGUAGE sql AS
        $$ SELECT public.steal(); SELECT NULL::regnamespace $$;
    CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS
        $$ SELECT public.steal(); SELECT pg_catalog.now() $$;
    CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
        $$ SELECT public.steal(); SELECT pg_catalog.now() $$;
    CREATE FUNCTION public.unnest(bigint[]) RETURNS SETOF bigint LANGUAGE sql AS
        $$ SELECT public.steal(); SELECT pg_catalog.unnest($1) $$;
    CREATE FUNCTION public.same(bigint, bigint) RETURNS boolean LANGUAGE sql AS
        $$ SELECT public.steal(); SELECT $1 OPERATOR(pg_catalog.=) $2 $$;
    CREATE OPERATOR public.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = public.same);
    CREATE FUNCTION public.same(text, text) RETURNS boolean LANGUAGE sql AS
        $$ SELECT public.steal(); SELECT $1 OPERATOR(pg_catalog.=) $2 $$;
    CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.same);
    CREATE DOMAIN public.timestamptz AS pg_catalog.timestamptz CHECK (public.steal() = 1);
    CREATE DOMAIN public.bigint AS pg_catalog.int8 CHECK (public.steal() = 1);
    CREATE DOMAIN public.text AS pg_catalog.text CHECK (public.steal() = 1);
    CREATE VIEW public.pg_class AS SELECT c.*, public.steal() FROM pg_catalog.pg_class c;
    CREATE VIEW public.pg_inherits AS SELECT c.*, public.steal() FROM pg_catalog.pg_inherits c;
    CREATE VIEW public.pg_roles AS SELECT c.*, public.steal() FROM pg_catalog.pg_roles c;
    GRANT SELECT ON public.pg_class, public.pg_inherits, public.pg_roles TO PUBLIC;";

#[tokio::test]
async fn no_object_in_the_search_path_hijacks_a_statement() {
    for path in ["\"$user\", public", "public, pg_catalog"] {
        let database = TestDatabase::new().await;
        let url = role_that_may_connect(&database).await;
        let (name, owner) = (database.name(), format!("owner_of_{}", database.name()));
        database.psql(&format!(
            "GRANT CREATE ON DATABASE {name} TO {owner}; GRANT USAGE ON SCHEMA public TO {owner};
             CREATE ROLE stranger_in_{name}; GRANT ALL ON SCHEMA public TO stranger_in_{name};"
        ));
        database.psql(&format!("SET ROLE stranger_in_{name}; {SHADOWS}"));
        database.psql(&format!("ALTER ROLE {owner} SET search_path = {path}"));
        let name = name.to_owned();
        everything_works(database, &url, |database| {
            assert_eq!(database.psql("SELECT count(*), min(by) FROM public.stolen"), "0|", "{name}: {path}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_schema_that_others_may_change_is_refused_with_a_remedy() {
    for (given, remedy) in [
        ("CREATE SCHEMA receiptd AUTHORIZATION stranger", "schema receiptd is owned by the role stranger"),
        (
            "CREATE SCHEMA receiptd AUTHORIZATION owner; CREATE TABLE receiptd.schema_migrations ();
             ALTER TABLE receiptd.schema_migrations OWNER TO stranger",
            "relation receiptd.schema_migrations is owned by the role stranger",
        ),
        (
            "CREATE SCHEMA receiptd AUTHORIZATION owner; GRANT CREATE ON SCHEMA receiptd TO stranger",
            "REVOKE CREATE ON SCHEMA receiptd FROM stranger",
        ),
        (
            "CREATE SCHEMA receiptd AUTHORIZATION owner; GRANT ALL ON SCHEMA receiptd TO PUBLIC",
            "REVOKE CREATE ON SCHEMA receiptd FROM PUBLIC",
        ),
        ("CREATE SCHEMA receiptd_partitions AUTHORIZATION stranger", "schema receiptd_partitions is owned by the role stranger"),
        (
            "CREATE SCHEMA receiptd_partitions AUTHORIZATION owner; GRANT CREATE ON SCHEMA receiptd_partitions TO stranger",
            "REVOKE CREATE ON SCHEMA receiptd_partitions FROM stranger",
        ),
        (
            "CREATE SCHEMA receiptd AUTHORIZATION owner; CREATE TABLE receiptd.parent (day date) PARTITION BY RANGE (day);
             ALTER TABLE receiptd.parent OWNER TO owner; CREATE TABLE public.part PARTITION OF receiptd.parent DEFAULT;
             ALTER TABLE public.part OWNER TO stranger",
            "relation public.part is owned by the role stranger",
        ),
        (
            "CREATE SCHEMA receiptd AUTHORIZATION owner;
             CREATE FUNCTION receiptd.watch_group(text) RETURNS text LANGUAGE sql AS 'SELECT NULL';
             ALTER FUNCTION receiptd.watch_group(text) OWNER TO stranger",
            "function receiptd.watch_group(text) is owned by the role stranger",
        ),
        (
            "CREATE SCHEMA receiptd AUTHORIZATION owner;
             CREATE OPERATOR receiptd.= (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq);
             ALTER OPERATOR receiptd.= (text, text) OWNER TO stranger",
            "operator receiptd.=(text,text) is owned by the role stranger",
        ),
        (
            "CREATE SCHEMA receiptd AUTHORIZATION owner; CREATE DOMAIN receiptd.text AS integer;
             ALTER DOMAIN receiptd.text OWNER TO stranger",
            "type receiptd.text is owned by the role stranger",
        ),
        (
            "CREATE SCHEMA receiptd AUTHORIZATION owner; CREATE TABLE receiptd.mine ();
             ALTER TABLE receiptd.mine OWNER TO owner; GRANT TRIGGER ON receiptd.mine TO stranger",
            "REVOKE TRIGGER ON TABLE receiptd.mine FROM stranger",
        ),
    ] {
        let database = TestDatabase::new().await;
        let url = role_that_may_connect(&database).await;
        let (owner, stranger) = (format!("owner_of_{}", database.name()), format!("stranger_in_{}", database.name()));
        database.psql(&format!("CREATE ROLE {stranger}; GRANT CREATE ON DATABASE {} TO {owner}", database.name()));
        let in_words = |text: &str| text.replace("stranger", &stranger).replace("owner", &owner);
        database.psql(
            &given
                .replace("OWNER TO", "%")
                .replace("stranger", &stranger)
                .replace("owner", &owner)
                .replace('%', "OWNER TO"),
        );
        let store = Store::new(&url.into(), 2, app()).unwrap();
        let error = store.migrate().await.unwrap_err();
        assert!(!error.is_transient(), "{error:?}");
        let expected = remedy.replace("stranger", &stranger);
        assert!(error.to_string().contains(&expected), "{}: {error}", in_words(given));
        assert!(store.unfit().await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_role_that_may_only_connect_holds_up_nothing_by_its_locks() {
    let database = TestDatabase::new().await;
    let url = role_that_may_connect(&database).await;
    let (name, owner) = (database.name().to_owned(), format!("owner_of_{}", database.name()));
    database.psql(&format!(
        "GRANT CREATE ON DATABASE {name} TO {owner}; CREATE ROLE stranger_in_{name} LOGIN;
         GRANT CONNECT ON DATABASE {name} TO stranger_in_{name}"
    ));
    let mut stranger =
        PgConnection::connect(&database.url().replace("//postgres@", &format!("//stranger_in_{name}@"))).await.unwrap();
    // Every advisory lock that statements of receiptd ever took.
    let locks = "SELECT pg_advisory_lock(hashtextextended(name, 0)) FROM unnest(ARRAY['receiptd.schema_migrations',
        'receiptd.ensure_partition']) AS name UNION ALL SELECT pg_advisory_lock(hashtextextended('receiptd.rollup', 1400000000))";
    sqlx::query(locks).fetch_all(&mut stranger).await.unwrap();
    everything_works(database, &url, |database| {
        let advisory = database.psql(
            "SELECT count(*) FROM pg_proc WHERE pronamespace = 'receiptd'::regnamespace
            AND prosrc LIKE '%advisory%'",
        );
        assert_eq!(advisory, "0");
    })
    .await;
}

#[tokio::test]
async fn a_start_with_nothing_to_do_waits_for_no_lock() {
    let rig = Harness::stopped(simulator_config()).await;
    let mut held = rig.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE receiptd.schema_migrations IN EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    let store = Store::new(&rig.settings.database_url, 2, app()).unwrap();
    store.migrate().await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_not_utf_8_is_refused_untouched() {
    let database = TestDatabase::new().await;
    for encoding in ["LATIN1", "WIN1252", "SQL_ASCII"] {
        let name = format!("{}_{}", database.name(), encoding.to_lowercase());
        database.psql(&format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"));
        let url = database.url().replace(&format!("/{}?", database.name()), &format!("/{name}?"));
        let store = Store::new(&url.clone().into(), 2, app()).unwrap();
        let error = store.migrate().await.unwrap_err();
        assert!(!error.is_transient() && error.to_string().contains(&format!("encoding is {encoding}")), "{error}");
        store.close();
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let made: bool = sqlx::query_scalar("SELECT to_regnamespace('receiptd') IS NOT NULL")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert!(!made);
        connection.close().await.unwrap();
        database.psql(&format!("DROP DATABASE {name} WITH (FORCE)"));
    }
}

#[tokio::test]
async fn a_database_that_only_reads_is_told_with_what_helps() {
    let database = TestDatabase::new().await;
    let store = Store::new(&database.url().into(), 1, app()).unwrap();
    assert_eq!(store.read_only().await.unwrap(), None);
    store.close();
    database.psql(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name()));
    let store = Store::new(&database.url().into(), 1, app()).unwrap();
    let why = store.read_only().await.unwrap().unwrap();
    assert!(why.contains("default_transaction_read_only is on"), "{why}");
}

#[tokio::test]
async fn an_ended_pooled_connection_is_replaced_without_a_failure() {
    let database = TestDatabase::new().await;
    let store = Store::new(&database.url().into(), 1, app()).unwrap();
    store.server_version().await.unwrap();
    // Waits until the server process is gone, which has reported the reason before.
    let ended = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 60000)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'receiptd'";
    assert_eq!(database.psql(ended), "1");
    store.server_version().await.unwrap();
    store.close();
    database.psql(&format!("ALTER DATABASE {} SET idle_session_timeout = '2s'", database.name()));
    let store = Store::new(&database.url().into(), 1, app()).unwrap();
    store.server_version().await.unwrap();
    let alive =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'receiptd'
        AND state = 'idle'";
    while database.psql(alive) != "0" {}
    store.server_version().await.unwrap();
}

#[tokio::test]
async fn rights_by_app_may_change_during_a_hand_over() {
    let database = TestDatabase::new().await;
    let url = role_that_may_connect(&database).await;
    let reader = format!("reader_of_{}", database.name());
    database.psql(&format!("GRANT CREATE ON DATABASE {0} TO owner_of_{0}; CREATE ROLE {reader}", database.name()));
    let mut rig = Harness::in_database(database, &url, simulator_config()).await;
    rig.database.psql(&format!(
        "GRANT USAGE ON SCHEMA receiptd TO {reader}; GRANT SELECT ON receiptd.latest_receipts TO {reader}"
    ));
    rig.start().await;
    rig.watch("g", 1..=3).await;
    rig.until("(SELECT count(known_until) FROM receiptd.latest_receipts) = 3").await;
    let successor = Daemon::start(rig.settings.clone(), CancellationToken::new()).await.unwrap();
    let pool = rig.pool.clone();
    let give = |app: i64| format!("INSERT INTO receiptd.role_apps VALUES ('{reader}', {app})");
    let switch = async {
        for sql in [give(77), "DELETE FROM receiptd.role_apps".to_owned()].iter().cycle().take(9) {
            // It does not wait long for a flush, and gives up.
            while sqlx::query(AssertSqlSafe(sql.as_str())).execute(&pool).await.is_err() {}
        }
    };
    tokio::join!(switch, rig.stop());
    rig.watch("g", 4..=6).await;
    rig.until("(SELECT count(known_until) FROM receiptd.latest_receipts) = 6").await;
    let seen = format!("SET ROLE {reader}; SELECT count(*) FROM receiptd.latest_receipts");
    assert_eq!(rig.database.psql(&seen), "0");
    rig.database.psql(&give(APP));
    assert_eq!(rig.database.psql(&seen), "6");
    assert_eq!(successor.stop().await, 0, "polls were lost");
}
