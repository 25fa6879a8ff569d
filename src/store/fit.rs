//! Checks whether the daemon may work in a database, before anything is created in it.
//!
//! A role that owns an object in one of our statements, or may create one, can run its code as our role through
//! triggers, views and functions. So our role alone must own the schema and its partitions. Statements meet no other
//! objects in the partitions' schema.

use super::{
    SchemaError, Store, StoreError,
    statement::{query_as, query_scalar},
    transaction::SHORT,
};
use crate::store::connection::StoreConnection;

/// Objects of the schema with their owners. Superusers have an owner's rights anyway: their objects are only refused
/// if they would prevent the daemon's work.
const FOREIGN: &str = "
    WITH objects AS (
        SELECT 'schema ' || n.nspname AS what, n.nspowner AS owner, true AS is_needed, 0 AS place
        FROM pg_namespace n WHERE n.nspname IN ('receiptd', 'receiptd_partitions')
        UNION ALL
        SELECT 'relation ' || c.oid::regclass, c.relowner, c.relkind IN ('r', 'p'), 1
        FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = i.inhparent
        JOIN pg_namespace n ON n.oid IN (c.relnamespace, p.relnamespace)
        WHERE n.nspname = 'receiptd' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL
        SELECT 'function ' || p.oid::regprocedure, p.proowner, false, 2
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'receiptd'
        UNION ALL
        SELECT 'operator ' || o.oid::regoperator, o.oprowner, false, 3
        FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace WHERE n.nspname = 'receiptd'
        UNION ALL
        SELECT 'type ' || t.oid::regtype, t.typowner, false, 4
        FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
        WHERE n.nspname = 'receiptd' AND t.typrelid = 0 AND t.typelem = 0
    )
    SELECT o.what::text, quote_ident(r.rolname)::text, quote_ident(current_user)::text
    FROM objects o JOIN pg_roles r ON r.oid = o.owner
    WHERE r.rolname <> current_user AND (o.is_needed OR NOT r.rolsuper)
    ORDER BY o.place, o.what LIMIT 1";

/// Other roles that may create something in the schema, or triggers on its tables.
const GRANTED: &str = "
    WITH grants AS (
        SELECT 'SCHEMA ' || n.nspname AS object, n.nspowner AS owner, a.grantee, a.privilege_type
        FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
        WHERE n.nspname IN ('receiptd', 'receiptd_partitions') AND a.privilege_type = 'CREATE'
        UNION ALL
        SELECT 'TABLE ' || c.oid::regclass, c.relowner, a.grantee, a.privilege_type
        FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = i.inhparent
        JOIN pg_namespace n ON n.oid IN (c.relnamespace, p.relnamespace) CROSS JOIN LATERAL aclexplode(c.relacl) a
        WHERE n.nspname = 'receiptd' AND a.privilege_type = 'TRIGGER'
    )
    SELECT g.privilege_type::text, g.object::text, coalesce(quote_ident(r.rolname), 'PUBLIC')::text
    FROM grants g LEFT JOIN pg_roles r ON r.oid = g.grantee
    WHERE g.grantee <> g.owner AND r.rolsuper IS NOT TRUE
    ORDER BY g.object LIMIT 1";

impl Store {
    /// Why the database is unsuitable, with the remedy: its encoding is not UTF-8, or others could change its schema.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn unfit(&self) -> Result<Option<String>, StoreError> {
        self.run("checking the database", SHORT, async |database| unfit(database).await).await
    }

    pub(super) async fn refuse_unfit_database(&self) -> Result<(), SchemaError> {
        self.unfit().await?.map_or(Ok(()), |why| Err(SchemaError::Unfit(why)))
    }
}

async fn unfit(connection: &mut StoreConnection) -> Result<Option<String>, sqlx::Error> {
    let encoding: String =
        query_scalar("SELECT current_setting('server_encoding')").fetch_one(&mut *connection).await?;
    if encoding != "UTF8" {
        return Ok(Some(format!(
            "its encoding is {encoding}, and receiptd needs UTF8. Make a database by \
             CREATE DATABASE receiptd ENCODING 'UTF8' TEMPLATE template0"
        )));
    }
    let foreign: Option<(String, String, String)> = query_as(FOREIGN).fetch_optional(&mut *connection).await?;
    if let Some((what, owner, role)) = foreign {
        return Ok(Some(format!(
            "the {what} is owned by the role {owner}, not by {role}, which connects: an owner can make {role} run \
             code. Connect as {owner} (the user in database.url), or make {role} the owner"
        )));
    }
    let granted: Option<(String, String, String)> = query_as(GRANTED).fetch_optional(connection).await?;
    Ok(granted.map(|(right, object, role)| {
        format!(
            "{role} has the right {right} on {object}, by which it can have the owner run code. Take it back: \
             REVOKE {right} ON {object} FROM {role}"
        )
    }))
}
