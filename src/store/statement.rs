//! Statements. Their text is fixed, so that a session with names prepares each once; [`crate::store::connection`]
//! decides which sessions do. Statements composed of parts have no name and use `sqlx::raw_sql`.

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
