//! The rights that the daemon's role needs in the database, as docs/operators.md lists them, and what is said without them.

use receiptd::store::Store;

use crate::{
    common::TestDatabase,
    rig::{Rig, app, group, simulator_config},
};

/// A database that nobody but its owner may use, and a role that may do nothing but connect to it. Returns the role's URL.
async fn role_that_may_connect(database: &TestDatabase) -> String {
    let name = database.name();
    let role = format!("owner_of_{name}");
    database.psql(&format!(
        "CREATE ROLE {role} LOGIN; REVOKE ALL ON DATABASE {name} FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC;
         GRANT CONNECT ON DATABASE {name} TO {role}"
    ));
    database.url().replace("//postgres@", &format!("//{role}@"))
}

/// Lets a daemon do all that it does in a database: make the schema, slot, poll, store, close, quarantine.
async fn everything_works(database: TestDatabase, url: &str) {
    let mut rig = Rig::in_database(database, url, simulator_config()).await;
    rig.start().await;
    rig.watch("g", 1..=3).await;
    rig.simulator.world().set_group_code(&group("gone"), 10_010);
    rig.watch("gone", 1..=3).await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE known_until IS NOT NULL) = 3").await;
    rig.until("EXISTS (SELECT FROM receiptd.watched_groups WHERE state <> 'active')").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_role_that_owns_the_schema_needs_no_more_than_to_connect() {
    let database = TestDatabase::new().await;
    let url = role_that_may_connect(&database).await;
    database.psql(&format!("CREATE SCHEMA receiptd AUTHORIZATION owner_of_{}", database.name()));
    everything_works(database, &url).await;
}

#[tokio::test]
async fn a_role_that_may_make_schemas_makes_its_own() {
    let database = TestDatabase::new().await;
    let url = role_that_may_connect(&database).await;
    database.psql(&format!("GRANT CREATE ON DATABASE {0} TO owner_of_{0}", database.name()));
    everything_works(database, &url).await;
}

#[tokio::test]
async fn a_role_without_these_rights_is_told_which_it_lacks() {
    let database = TestDatabase::new().await;
    let url = role_that_may_connect(&database).await;
    let store = Store::new(&url.into(), 2, app()).unwrap();
    let error = store.migrate().await.unwrap_err();
    assert!(!error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("GRANT CREATE ON DATABASE"), "{error}");
}
