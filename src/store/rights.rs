//! Queries of `receiptd check` that the daemon doesn't make.

use super::{
    Store, StoreError,
    statement::{query_as, query_scalar},
    transaction::SHORT,
};

/// The database role's rights, as far as receiptd needs them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// Name of the role.
    pub role: String,
    /// Missing schemas that it may not create.
    pub unmade: Vec<String>,
    /// Existing schemas in which it may not create tables.
    pub closed: Vec<String>,
}

impl Store {
    /// The rights of the connecting role.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn rights(&self) -> Result<Rights, StoreError> {
        let rights = query_as::<(String, Vec<String>, Vec<String>)>(
            "SELECT quote_ident(current_user),
                coalesce(array_agg(s.name ORDER BY s.name) FILTER (WHERE n.oid IS NULL
                    AND NOT has_database_privilege(current_database(), 'CREATE')), '{}'),
                coalesce(array_agg(s.name ORDER BY s.name) FILTER (WHERE NOT has_schema_privilege(n.oid, 'CREATE')), '{}')
             FROM unnest(ARRAY['receiptd', 'receiptd_partitions']) AS s (name) LEFT JOIN pg_namespace n ON n.nspname = s.name",
        );
        let (role, unmade, closed) =
            self.run("checking the role's rights", SHORT, async |database| rights.fetch_one(database).await).await?;
        Ok(Rights { role, unmade, closed })
    }

    /// Why the database is read-only, if it is, with the remedy.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn read_only(&self) -> Result<Option<&'static str>, StoreError> {
        let asked = query_as("SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean");
        let (is_standby, is_read_only): (bool, bool) = self
            .run("checking whether the database is writable", SHORT, async |database| asked.fetch_one(database).await)
            .await?;
        Ok(match (is_standby, is_read_only) {
            (true, _) => Some("the server is a standby, which is read-only: point database.url at the primary"),
            (false, true) => Some(
                "default_transaction_read_only is on, so nothing can be stored: find out who set it and why (a full disk?), then \
                 reset it by ALTER SYSTEM, ALTER DATABASE or ALTER ROLE … RESET default_transaction_read_only",
            ),
            (false, false) => None,
        })
    }

    /// The holder of this app's lease, unless it is over by the database's clock.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn holder(&self) -> Result<Option<String>, StoreError> {
        let holder = query_scalar(
            "SELECT (SELECT holder FROM receiptd.poller_leases WHERE sdk_app_id = $1 AND expires_at > clock_timestamp())",
        );
        let holder = holder.bind(self.app());
        self.run("looking up the lease holder", SHORT, async |database| holder.fetch_one(database).await).await
    }
}
