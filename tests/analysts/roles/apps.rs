//! Roles that may use some apps only: they see and change nothing of others. And nothing that a role plants is called.

use super::*;

/// A row in everything that analysts read, for two apps, this one and app 77.
pub(super) const TWO_APPS: &str = "
    SELECT receiptd.ensure_partition(t, current_date) FROM unnest(ARRAY['receipt_snapshots', 'api_calls']) AS t;
    SELECT receiptd.watch_messages(app, 'g', ARRAY[1]) FROM unnest(ARRAY[1400000000, 77]) AS app;
    UPDATE receiptd.watched_messages SET read_num = 0, unread_num = 2, receipt_code = 0, first_polled_at = now(),
        last_changed_at = now(), known_until = now(), added_at = now() + interval '1 day';
    INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, read_num, unread_num, code)
        SELECT group_key, 1, now(), 1, 2, 0 FROM receiptd.watched_groups;
    INSERT INTO receiptd.api_calls (called_at, due_at, group_key, attempt, messages_asked, messages_answered, entries_bad,
            class, code, http_status, latency_ms)
        SELECT now(), now(), group_key, 1, 1, 1, 0, 'success', 0, 200, 1 FROM receiptd.watched_groups;
    INSERT INTO receiptd.group_receipts_hourly (group_key, hour)
        SELECT group_key, date_trunc('hour', now(), 'UTC') FROM receiptd.watched_groups;
    INSERT INTO receiptd.message_receipts_daily SELECT group_key, current_date, 1, now(), now(), 0, 0, 0, 0, 2, 0
        FROM receiptd.watched_groups;
    INSERT INTO receiptd.poll_gaps SELECT group_key, now() - interval '1 hour', now(), 1, 'waiting' FROM receiptd.watched_groups;
    INSERT INTO receiptd.poller_leases (sdk_app_id, epoch, acquired_at, expires_at, rolled_up_until)
        SELECT app, 1, now(), now(), now() FROM unnest(ARRAY[1400000000, 77]) AS app;";

#[tokio::test]
async fn a_reader_sees_its_own_apps_or_all_if_no_role_has_any() {
    let member = Member::of_two_apps("receiptd_reader").await;
    let functions =
        ["receipts_at(now())", "read_at_age('0')", "receipt_curve('g', 1, '1 hour')", "messages_since('-infinity')"]
            .map(str::to_owned);
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
            // Each message has one step in the curve.
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

/// The server evaluates conditions as early as it likes: one with a function of the reader's would reveal the rows that
/// it is called for.
#[tokio::test]
async fn no_function_of_a_readers_own_sees_a_row_of_another_app() {
    let member = Member::of_two_apps("receiptd_reader").await;
    member.database.psql(&format!("INSERT INTO receiptd.role_apps VALUES ('{}', {APP})", member.login));
    let group = |app: &str| {
        let key = format!("SELECT group_key FROM receiptd.watched_groups WHERE sdk_app_id = {app}");
        member.database.psql(&key).parse::<i64>().unwrap()
    };
    let ours = [group("1400000000"), 1_400_000_000];
    let mut connection = member.connect().await;
    let leak = "CREATE TEMP TABLE seen (value bigint);
        CREATE FUNCTION pg_temp.leak(bigint) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
            $$ BEGIN INSERT INTO pg_temp.seen VALUES ($1); RETURN true; END $$";
    sqlx::raw_sql(leak).execute(&mut connection).await.unwrap();
    for relation in READ.into_iter().chain(["watched_groups", "receipts_at(now())", "messages_since('-infinity')"]) {
        let column = if relation == "data_freshness" { "sdk_app_id" } else { "group_key" };
        let select = format!("SELECT 1 FROM receiptd.{relation} WHERE pg_temp.leak({column})");
        sqlx::raw_sql(AssertSqlSafe(select)).execute(&mut connection).await.unwrap();
        let seen: Vec<i64> = sqlx::query_scalar(
            "WITH gone AS (DELETE FROM pg_temp.seen RETURNING value) SELECT DISTINCT value FROM gone",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        assert!(seen.len() == 1 && ours.contains(&seen[0]), "{relation}: {seen:?}");
    }
}

#[tokio::test]
async fn the_next_start_limits_views_and_tables_from_a_migration() {
    let member = Member::of_two_apps("receiptd_reader").await;
    member.database.psql(&format!("INSERT INTO receiptd.role_apps VALUES ('{}', {APP})", member.login));
    let unlimited = "SELECT count(*) FROM pg_class c WHERE relnamespace = 'receiptd'::regnamespace AND (
            relkind = 'v' AND reloptions IS NULL
            OR relkind IN ('r', 'p') AND NOT relrowsecurity AND EXISTS (
                SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'group_key'))";
    assert_eq!(member.database.psql(unlimited), "0");
    let owner = format!("owner_of_{}", member.database.name());
    member.database.psql(&format!(
        "SET ROLE {owner}; ALTER VIEW receiptd.read_speed RESET (security_barrier);
         CREATE TABLE receiptd.added (group_key integer)"
    ));
    assert_eq!(member.database.psql(unlimited), "2");
    member.database.psql("SELECT receiptd.ensure_partition('api_calls', '2027-01-01')");
    assert_eq!(member.database.psql(unlimited), "2", "new partitions follow their parents");
    member.database.psql(&format!("SET ROLE {owner}; SELECT receiptd.grant_roles()"));
    assert_eq!(member.database.psql(unlimited), "0");
    // A role that may read all tables can only read partitions through their parents.
    member.database.psql(
        "GRANT SELECT ON ALL TABLES IN SCHEMA receiptd, receiptd_partitions TO receiptd_reader;
         GRANT USAGE ON SCHEMA receiptd_partitions TO receiptd_reader",
    );
    let partition = member.database.psql("SELECT inhrelid::regclass FROM pg_inherits
        WHERE inhparent = 'receiptd.receipt_snapshots'::regclass AND inhrelid::regclass::text LIKE '%' || to_char(now(), 'YYYYMMDD')");
    assert_eq!(member.count(&format!("SELECT 1 FROM {partition}")).await, 0);
    assert_eq!(member.count("SELECT 1 FROM receiptd.receipt_snapshots").await, 1);
}

/// Objects that a role with the right to create in `public` can plant there to match the functions' statements better
/// than PostgreSQL's own functions and operators.
const PLANTED: &str = "
    CREATE TABLE public.stolen (by text);
    GRANT ALL ON public.stolen TO PUBLIC;
    CREATE FUNCTION public.steal() RETURNS integer LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.stolen VALUES (current_user); RETURN 1; END $$;
    CREATE FUNCTION public.divide(integer, real) RETURNS real LANGUAGE sql AS 'SELECT public.steal()::real';
    CREATE OPERATOR public./ (LEFTARG = integer, RIGHTARG = real, FUNCTION = public.divide);
    CREATE FUNCTION public.first_of(integer, integer) RETURNS integer LANGUAGE sql AS 'SELECT public.steal()';
    CREATE AGGREGATE public.first_value(integer) (SFUNC = public.first_of, STYPE = integer);
    CREATE FUNCTION public.count(text) RETURNS bigint LANGUAGE sql AS 'SELECT public.steal()::bigint';
    CREATE TYPE public.trap AS (caught bigint);
    CREATE FUNCTION public.caught(bigint) RETURNS public.trap LANGUAGE sql AS 'SELECT ROW(public.steal())::public.trap';
    CREATE CAST (bigint AS public.trap) WITH FUNCTION public.caught(bigint) AS IMPLICIT;
    CREATE FUNCTION public.same(public.trap, public.trap) RETURNS boolean LANGUAGE sql AS 'SELECT public.steal() = 1';
    CREATE OPERATOR public.= (LEFTARG = public.trap, RIGHTARG = public.trap, FUNCTION = public.same);";

#[tokio::test]
async fn functions_for_analysts_call_no_planted_function() {
    let member = Member::of_two_apps("receiptd_reader").await;
    let stranger = format!("stranger_in_{}", member.database.name());
    member.database.psql(&format!("CREATE ROLE {stranger}; GRANT ALL ON SCHEMA public TO {stranger}"));
    member.database.psql(&format!("SET ROLE {stranger}; {PLANTED}"));
    assert_eq!(member.count("SELECT * FROM receiptd.receipts_at(now())").await, 2);
    assert_eq!(member.count("SELECT * FROM receiptd.receipt_curve('g', 1, '1 hour')").await, 2);
    assert_eq!(member.database.psql("SELECT count(*) FROM public.stolen"), "0");
    member.may("SELECT 1 / 2::real").await;
    assert_eq!(member.database.psql("SELECT count(*) FROM public.stolen"), "1", "it is planted");
}

#[tokio::test]
async fn temporary_tables_and_types_of_a_writer_stand_in_for_nothing() {
    let member = Member::of("receiptd_writer").await;
    let shadows = "CREATE TEMP TABLE watched_groups (); CREATE TEMP TABLE watched_messages (); CREATE TEMP TABLE pg_class ();
        CREATE TEMP TABLE pg_roles (); CREATE DOMAIN pg_temp.text AS integer; CREATE DOMAIN pg_temp.bigint AS pg_catalog.bool;
        CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT 1 / 0, NULL::timestamptz' ";
    let shadows =
        shadows.replace("'SELECT 1 / 0, NULL::timestamptz'", "$$ SELECT ('infinity'::pg_catalog.text)::timestamptz $$");
    let calls = format!(
        "{shadows}; SET search_path = pg_temp, receiptd, pg_catalog;
         SELECT receiptd.watch_messages({APP}, 'g', ARRAY[1, 2]), receiptd.unwatch_messages({APP}, 'g', ARRAY[2]),
            receiptd.pause_group({APP}, 'g'), receiptd.resume_group({APP}, 'g')"
    );
    member.may(&calls).await;
    assert_eq!(
        member
            .database
            .psql("SELECT count(*), count(*) FILTER (WHERE state = 'active') FROM receiptd.watched_messages"),
        "2|1"
    );
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
