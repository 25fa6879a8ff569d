//! The reaction to a database failure, by its SQLSTATE (appendix A of PostgreSQL's manual). Pure.

use sqlx::postgres::PgDatabaseError;

use super::StoreError;

/// The reaction to a failed operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Retry after a delay: it is transient.
    Retry,
    /// Retry on new connections: the present ones lead to a read-only server, or have invalid prepared statements.
    Reconnect,
    /// Create the partition that may be missing, and retry. If none is missing, it is a bad row.
    Partition,
    /// It would fail again: find the row and set it aside.
    SetAside,
    /// Retry now and then: an operator has to correct it.
    Operator,
}

/// The reaction to an SQLSTATE.
pub(super) fn remedy(sqlstate: &str) -> Remedy {
    match sqlstate {
        // read_only_sql_transaction, invalid_sql_statement_name, duplicate_prepared_statement
        "25006" | "26000" | "42P05" => Remedy::Reconnect,
        // check_violation: also a row without a partition
        "23514" => Remedy::Partition,
        // data_corrupted and index_corrupted affect the rows stored there
        "XX001" | "XX002" => Remedy::SetAside,
        _ => match sqlstate.get(..2).unwrap_or_default() {
            // not supported, invalid authorization, no such database or schema, no rights or no such table
            "0A" | "28" | "3D" | "3F" | "42" => Remedy::Operator,
            // connection, transaction state, rolled back, resources, object state, intervention, system,
            // configuration, foreign data, internal
            "08" | "0B" | "25" | "26" | "2D" | "3B" | "40" | "53" | "55" | "57" | "58" | "F0" | "HV" | "XX" => {
                Remedy::Retry
            }
            // cardinality, data, integrity constraint, WITH CHECK OPTION, program limit, functions, triggers, and
            // classes that only an owner's trigger uses
            _ => Remedy::SetAside,
        },
    }
}

/// The SQLSTATE of a failure, if the server sent one.
pub(super) fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code()).map(std::borrow::Cow::into_owned)
}

/// The reaction to a failure, including one that never reached the server.
pub(super) fn remedy_of(error: &sqlx::Error) -> Remedy {
    match (error, sqlstate(error)) {
        (_, Some(_)) if has_changed_columns(error) => Remedy::Reconnect,
        (_, Some(_)) if is_of_owner(error) => Remedy::SetAside,
        (_, Some(sqlstate)) => remedy(&sqlstate),
        (sqlx::Error::Encode(_), None) => Remedy::SetAside,
        _ => Remedy::Retry,
    }
}

/// Whether the database refuses the data: the rest can be written without it.
pub(super) fn is_refusal(error: &sqlx::Error) -> bool {
    matches!(remedy_of(error), Remedy::SetAside | Remedy::Partition)
}

/// Whether an owner's trigger or policy refuses a row. A trigger may raise any SQLSTATE, also one that means something
/// else if the server reports it.
pub(super) fn is_of_owner(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>()) else {
        return false;
    };
    is_raised_by_owner(error.code(), error.routine().unwrap_or_default(), error.r#where().unwrap_or_default())
}

/// The same by the SQLSTATE, the place in PostgreSQL's source, and the calls of functions, the innermost first.
fn is_raised_by_owner(sqlstate: &str, routine: &str, calls: &str) -> bool {
    // In any language of messages.
    let innermost = calls.lines().find(|line| line.contains("PL/"));
    let is_owners = innermost.is_some_and(|line| !line.contains(" receiptd."));
    let may_be_transient = matches!(remedy(sqlstate), Remedy::Retry | Remedy::Reconnect) && !sqlstate.starts_with("XX");
    match routine {
        "exec_stmt_raise" => is_owners,
        // of row-level security
        "ExecWithCheckOptions" => true,
        _ => is_owners && !may_be_transient,
    }
}

/// Whether another session has locked something for too long.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("55P03") && !is_of_owner(error)
}

/// Whether the server does not know a prepared statement's name, or has another statement by that name.
pub(super) fn has_lost_name(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("26000" | "42P05")) && !is_of_owner(error)
}

/// Whether a statement failed only because it was prepared earlier.
pub(super) fn is_about_prepared(error: &sqlx::Error) -> bool {
    has_lost_name(error) || has_changed_columns(error)
}

/// Whether a transaction was refused because the lease has passed to another process, by `end_under_lease`.
pub(super) fn is_lease_lost(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("RC001")
}

/// Whether a prepared statement would return other columns than when it was prepared, because the schema was changed.
/// PostgreSQL has no SQLSTATE for that alone.
fn has_changed_columns(error: &sqlx::Error) -> bool {
    let server = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    server.is_some_and(|error| error.routine() == Some("RevalidateCachedQuery"))
}

/// The classes of `receiptd_database_errors_total`.
pub const ERROR_CLASSES: [&str; 9] =
    ["deadline", "connection", "conflict", "resources", "intervention", "read_only", "data", "configuration", "other"];

/// The class of a failure.
pub(super) fn class(error: &StoreError) -> &'static str {
    let Some(sqlstate) = error.sqlstate() else {
        let is_late = matches!(error, StoreError::Deadline { .. } | StoreError::Unanswered { source: None, .. });
        return if is_late { "deadline" } else { "connection" };
    };
    match (sqlstate.as_str(), sqlstate.get(..2).unwrap_or_default()) {
        ("25006", _) => "read_only",
        (_, "08") => "connection",
        (_, "40" | "55") => "conflict",
        (_, "53") => "resources",
        (_, "57") => "intervention",
        _ => match error.remedy() {
            Remedy::SetAside | Remedy::Partition => "data",
            Remedy::Operator => "configuration",
            Remedy::Retry | Remedy::Reconnect => "other",
        },
    }
}

/// The remedy for an SQLSTATE, if there is one.
pub(super) fn advice(sqlstate: &str) -> Option<&'static str> {
    Some(match sqlstate {
        "25006" => "the server is read-only: point database.url at the primary",
        "28P01" | "28000" => "check the user and password in database.url, and the server's pg_hba.conf",
        "3D000" => "create the database named in database.url",
        "3F000" | "42P01" | "42703" | "42883" => "upgrade the schema with `receiptd migrate`",
        "42501" => {
            "the role of database.url has to own the schemas receiptd and receiptd_partitions, or to make them once: GRANT CREATE ON DATABASE … TO …"
        }
        "53100" => "free disk space on the database server",
        "53300" => "raise max_connections on the server, or lower database.max_connections",
        "55P03" => "another session holds a lock: pg_locks and pg_stat_activity show which one",
        _ => return None,
    })
}

/// The remedy for a TLS failure.
fn tls_advice(error: &sqlx::Error) -> Option<&'static str> {
    use rustls::{CertificateError as Certificate, Error as Tls};
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let tls = std::iter::from_fn(|| {
        let here = cause?;
        // An I/O error does not show the error it wraps.
        cause = match here.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => here.source(),
        };
        Some(here)
    });
    match tls.into_iter().find_map(|cause| cause.downcast_ref::<Tls>()) {
        Some(Tls::InvalidCertificate(Certificate::UnknownIssuer)) => {
            Some("the server's certificate is from an unknown CA: set sslrootcert in database.url to the CA's file")
        }
        Some(Tls::InvalidCertificate(Certificate::NotValidForName | Certificate::NotValidForNameContext { .. })) => {
            Some(
                "the server's certificate is for another name: use the name in the certificate in database.url, or \
                 set sslmode=verify-ca",
            )
        }
        Some(Tls::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. })) => {
            Some("the server's certificate has expired: renew it")
        }
        Some(_) => Some("check the TLS settings of the server, and sslmode and sslrootcert in database.url"),
        None if matches!(error, sqlx::Error::Tls(_)) => Some(
            "the server must support TLS (ssl = on): remote hosts are connected with sslmode=verify-full unless \
             database.url says otherwise, for example sslmode=disable in a network that you trust",
        ),
        None => None,
    }
}

impl StoreError {
    /// The SQLSTATE, if the server sent one.
    pub fn sqlstate(&self) -> Option<String> {
        let Self::Failed { source, .. } = self else { return None };
        sqlstate(source)
    }

    /// The remedy, if there is one.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Failed { source, .. } => tls_advice(source).or_else(|| advice(&sqlstate(source)?)),
            _ => None,
        }
    }

    /// Whether it took too long, by the daemon's or the server's deadline or a lock timeout: a smaller batch may
    /// succeed.
    pub(crate) fn is_timeout(&self) -> bool {
        // lock_not_available, query_canceled
        matches!(self, Self::Deadline { .. }) || matches!(self.sqlstate().as_deref(), Some("55P03" | "57014"))
    }

    /// Whether something may have been written without an answer.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::Unanswered { .. })
    }

    /// Whether it has the SQLSTATE of a serialization failure or a deadlock, after which a transaction is repeated. An
    /// owner's trigger may mean that, too.
    pub(crate) fn asks_for_another_attempt(&self) -> bool {
        matches!(self.sqlstate().as_deref(), Some("40001" | "40P01"))
    }

    /// Whether the database refuses the data: the rest can be written without it.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.remedy(), Remedy::SetAside | Remedy::Partition)
    }

    pub(crate) fn remedy(&self) -> Remedy {
        match self {
            Self::Unanswered { .. } => Remedy::Retry,
            Self::Failed { source, .. } => remedy_of(source),
            Self::Deadline { .. } | Self::LeaseLost { .. } => Remedy::Retry,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_sqlstate_has_its_remedy() {
        for (sqlstate, expected) in [
            ("40001", Remedy::Retry),     // serialization_failure
            ("40P01", Remedy::Retry),     // deadlock_detected
            ("53100", Remedy::Retry),     // disk_full
            ("53300", Remedy::Retry),     // too_many_connections
            ("55P03", Remedy::Retry),     // lock_not_available
            ("57014", Remedy::Retry),     // query_canceled, by statement_timeout
            ("57P01", Remedy::Retry),     // admin_shutdown
            ("57P03", Remedy::Retry),     // cannot_connect_now
            ("08006", Remedy::Retry),     // connection_failure
            ("25P03", Remedy::Retry),     // idle_in_transaction_session_timeout
            ("XX000", Remedy::Retry),     // internal_error
            ("25006", Remedy::Reconnect), // read_only_sql_transaction
            ("26000", Remedy::Reconnect), // invalid_sql_statement_name
            ("42P05", Remedy::Reconnect), // duplicate_prepared_statement
            ("23514", Remedy::Partition), // check_violation
            ("23503", Remedy::SetAside),  // foreign_key_violation
            ("22003", Remedy::SetAside),  // numeric_value_out_of_range
            ("P0001", Remedy::SetAside),  // raise_exception
            ("P0002", Remedy::SetAside),  // no_data_found
            ("22012", Remedy::SetAside),  // division_by_zero
            ("09000", Remedy::SetAside),  // triggered_action_exception, by a trigger in C
            ("38000", Remedy::SetAside),  // external_routine_exception, by one in Python or Perl
            ("ZZ001", Remedy::SetAside),  // none of PostgreSQL's
            ("XX002", Remedy::SetAside),  // index_corrupted
            ("42501", Remedy::Operator),  // insufficient_privilege
            ("42P01", Remedy::Operator),  // undefined_table
            ("28P01", Remedy::Operator),  // invalid_password
            ("3D000", Remedy::Operator),  // invalid_catalog_name
        ] {
            assert_eq!(remedy(sqlstate), expected, "{sqlstate}");
        }
    }

    #[test]
    fn errors_of_an_owners_function_differ_from_faults_of_the_server() {
        const TRIGGER: &str = "PL/pgSQL function public.refuse() line 1 at RAISE";
        const WITHIN: &str = "PL/pgSQL-Funktion audit.note() Zeile 3 bei SQL-Anweisung\nSQL-Anweisung »INSERT …«\n\
            PL/pgSQL-Funktion receiptd.watch_keys(integer[]) Zeile 22 bei SQL-Anweisung";
        const OURS: &str = "SQL statement \"INSERT …\"\nPL/pgSQL function receiptd.watch_keys(integer[]) line 22";
        for (sqlstate, routine, calls, expected) in [
            ("40001", "exec_stmt_raise", TRIGGER, true),
            ("57014", "exec_stmt_raise", TRIGGER, true),
            ("42501", "aclcheck_error", WITHIN, true),
            ("XX000", "elog", WITHIN, true),
            ("40P01", "DeadLockReport", WITHIN, false),
            ("53100", "mdextend", WITHIN, false),
            ("42501", "ExecWithCheckOptions", "", true),
            ("42501", "aclcheck_error", "", false),
            ("42P01", "parserOpenTable", OURS, false),
            ("42501", "exec_stmt_raise", OURS, false),
            ("42P01", "parserOpenTable", "unnamed portal with parameters: $1 = '1'", false),
        ] {
            assert_eq!(is_raised_by_owner(sqlstate, routine, calls), expected, "{sqlstate} by {routine} in {calls}");
        }
    }

    proptest! {
        #[test]
        fn every_text_has_a_remedy(sqlstate in ".{0,8}") {
            _ = (remedy(&sqlstate), advice(&sqlstate));
        }
    }
}
