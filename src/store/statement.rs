//! Statements that are prepared anew each time, in place of those of sqlx, which are kept on the connection by name.
//!
//! Behind a proxy that pools transactions (PgBouncer) a connection's next transaction may meet another server process,
//! where the name means nothing or another statement. Measured, the preparing costs the server little.

use sqlx::{
    FromRow, Postgres,
    postgres::{PgArguments, PgRow},
    query::{Query, QueryAs, QueryScalar},
};

pub(super) fn query(sql: &'static str) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(sql).persistent(false)
}

pub(super) fn query_as<O>(sql: &'static str) -> QueryAs<'static, Postgres, O, PgArguments>
where
    O: for<'row> FromRow<'row, PgRow>,
{
    sqlx::query_as(sql).persistent(false)
}

pub(super) fn query_scalar<O>(sql: &'static str) -> QueryScalar<'static, Postgres, O, PgArguments>
where
    (O,): for<'row> FromRow<'row, PgRow>,
{
    sqlx::query_scalar(sql).persistent(false)
}
