//! What `receiptd check` asks the database besides what the daemon does.

use super::{
    Store, StoreError,
    statement::{query_as, query_scalar},
    transaction::SHORT,
};

/// What the role of the database may do, as far as receiptd needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// Its name.
    pub role: String,
    /// The schemas that are missing, and that it may not make.
    pub unmade: Vec<String>,
    /// The schemas that are there, and in which it may not make tables.
    pub closed: Vec<String>,
}

impl Store {
    /// The rights of the role that connects.
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
        let (role, unmade, closed) = self
            .run("asking for the rights of the role", SHORT, async |database| rights.fetch_one(database).await)
            .await?;
        Ok(Rights { role, unmade, closed })
    }

    /// Why the database only reads, if it does, with what helps.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn read_only(&self) -> Result<Option<&'static str>, StoreError> {
        let asked = query_as("SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean");
        let (is_standby, is_read_only): (bool, bool) = self
            .run("asking whether the database can be written", SHORT, async |database| asked.fetch_one(database).await)
            .await?;
        Ok(match (is_standby, is_read_only) {
            (true, _) => Some("the server is a standby, which only reads: point database.url at the primary"),
            (false, true) => Some(
                "default_transaction_read_only is on, so nothing can be stored: find out who set it and why (a full disk?), then \
                 reset it by ALTER SYSTEM, ALTER DATABASE or ALTER ROLE … RESET default_transaction_read_only",
            ),
            (false, false) => None,
        })
    }

    /// Who polls this app: the holder of its lease, unless that is over by the database's clock.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn holder(&self) -> Result<Option<String>, StoreError> {
        let holder = query_scalar(
            "SELECT (SELECT holder FROM receiptd.poller_leases WHERE sdk_app_id = $1 AND expires_at > clock_timestamp())",
        );
        let holder = holder.bind(self.app());
        self.run("asking who polls this app", SHORT, async |database| holder.fetch_one(database).await).await
    }
}
