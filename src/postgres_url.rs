//! The database URL, interpreted like libpq does (PostgreSQL's manual, "Connection URIs"), and how the connection is
//! protected.
//!
//! Unsupported parts are refused, since an ignored parameter may have been the one that required TLS. Refusals
//! contain no part of the URL except names of parameters, since the rest may be the password. Pure, except for the
//! variables `PG…`, from which the library takes defaults.

use std::{fmt, net::IpAddr, str::FromStr};

use reqwest::Url;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// The supported parameters.
const KNOWN: [&str; 12] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

const UNREADABLE: &str = "is invalid: use postgres://USER:PASSWORD@HOST:PORT/DATABASE, and write characters such as \
    @ : / # % in a password as %40 %3A %2F %23 %25";

/// The database's address, and how to connect.
#[derive(Clone)]
pub struct PostgresUrl {
    options: PgConnectOptions,
    has_password: bool,
}

/// Why the URL can't be used, with the remedy. Begins with a verb, for a sentence about the URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlFault(String);

fn fault<T>(text: impl Into<String>) -> Result<T, UrlFault> {
    Err(UrlFault(text.into()))
}

impl PostgresUrl {
    /// Parses a URL. `sslmode` is the default if the URL has none, such as `$PGSSLMODE`.
    ///
    /// # Errors
    /// If it is invalid or has unsupported parts.
    pub fn parse(text: &str, sslmode: Option<&str>) -> Result<Self, UrlFault> {
        let text = text.trim();
        let (has_host, mut url) = url_of(text)?;
        let parameters: Vec<(String, String)> =
            url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        refuse_unknown(&parameters)?;
        if parameters.iter().any(|(name, value)| name == "port" && value.contains(',')) {
            return fault(SEVERAL_HOSTS);
        }
        let value = |wanted: &str| parameters.iter().rev().find(|(name, _)| name == wanted).map(|(_, value)| &**value);
        let (host, hostaddr) = (value("host"), value("hostaddr"));
        if hostaddr.is_some() && (host.is_some() || has_host) {
            return fault("has both hostaddr and a host: use one of them");
        }
        let is_system = value("sslrootcert") == Some("system");
        url.query_pairs_mut().clear();
        let kept = parameters
            .iter()
            .filter(|(name, value)| !value.is_empty() && name != "sslmode" && !(name == "sslrootcert" && is_system));
        let kept: Vec<&(String, String)> = kept.collect();
        url.query_pairs_mut().extend_pairs(kept.iter().map(|(name, value)| (name, value)));
        let mut options = PgConnectOptions::from_str(url.as_str()).map_err(|_| UrlFault(UNREADABLE.to_owned()))?;
        if !has_host && host.is_none() && hostaddr.is_none() {
            // Like psql: the socket if there is one.
            options = options.host(PgConnectOptions::new_without_pgpass().get_host());
        }
        if let Some(address) = options.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            let address = address.to_owned();
            options = options.host(&address);
        }
        if options.get_socket().is_none() && options.get_host().contains(',') {
            return fault(SEVERAL_HOSTS);
        }
        if url.username().is_empty() && value("user").is_none() {
            return fault("has no user: use postgres://USER@HOST:PORT/DATABASE");
        }
        let mode = match (value("sslmode"), sslmode.filter(|mode| !mode.is_empty())) {
            (Some(mode), _) => Some(mode_of(mode)?),
            (None, Some(mode)) => {
                let mode = mode_of(mode);
                Some(mode.map_err(|UrlFault(why)| UrlFault(format!("has no sslmode, and $PGSSLMODE {why}")))?)
            }
            (None, None) => None,
        };
        let mode = protection(mode, is_local(&options), value("sslrootcert"))?;
        let has_password = url.password().is_some() || value("password").is_some();
        Ok(Self { options: options.ssl_mode(mode), has_password })
    }

    /// Parses a URL, with `$PGSSLMODE` as the default.
    ///
    /// # Errors
    /// If it is invalid or has unsupported parts.
    pub fn from_environment(text: &str) -> Result<Self, UrlFault> {
        Self::parse(text, std::env::var("PGSSLMODE").ok().as_deref())
    }

    /// The options of a connection.
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// The attack on the network that the URL allows, if any.
    pub fn exposure(&self) -> Option<&'static str> {
        if is_local(&self.options) {
            return None;
        }
        match self.options.get_ssl_mode() {
            PgSslMode::VerifyFull => None,
            PgSslMode::VerifyCa => {
                Some("sslmode=verify-ca: any server with a certificate of the same CA can impersonate the database")
            }
            PgSslMode::Require => {
                Some("sslmode=require: an attacker on the network can impersonate the database and get the password")
            }
            _ => Some(
                "sslmode allows unencrypted connections: an attacker on the network can read the password and \
                all data",
            ),
        }
    }
}

/// Without the password and the parameters.
impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        let password = if self.has_password { ":***" } else { "" };
        write!(f, "postgres://{}{password}@", options.get_username())?;
        match (options.get_socket(), options.get_host()) {
            (Some(socket), _) => write!(f, "{}", socket.display())?,
            (None, host) if host.starts_with('/') => f.write_str(host)?,
            (None, host) if host.contains(':') => write!(f, "[{host}]:{}", options.get_port())?,
            (None, host) => write!(f, "{host}:{}", options.get_port())?,
        }
        write!(f, "/{}", options.get_database().unwrap_or(options.get_username()))
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

const SEVERAL_HOSTS: &str = "names several hosts: use one, a name or a proxy that leads to the primary";

/// The URL, with `localhost` for an empty host, and whether it names a host.
fn url_of(text: &str) -> Result<(bool, Url), UrlFault> {
    let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
    let Some(rest) = rest else {
        return fault("is not a PostgreSQL URL: use postgres://USER:PASSWORD@HOST:PORT/DATABASE");
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
    if host.contains(',') {
        return fault(SEVERAL_HOSTS);
    }
    // An unescaped password ends the host part early, and a part of it would pass for the host or the database.
    if path.contains('#') || path.split('?').next().is_some_and(|database| database.contains('@')) {
        return fault(UNREADABLE);
    }
    if host.starts_with('[') && host.contains('%') {
        return fault("has an address with a zone: use the host's name, or an address without a zone");
    }
    let has_host = !host.is_empty() && !host.starts_with(':');
    let at = if user.is_empty() { "" } else { "@" };
    let default = if has_host { "" } else { "localhost" };
    let url = Url::parse(&format!("postgres://{user}{at}{default}{host}{path}"));
    url.map(|url| (has_host, url)).or_else(|_| fault(UNREADABLE))
}

fn refuse_unknown(parameters: &[(String, String)]) -> Result<(), UrlFault> {
    let Some((name, _)) = parameters.iter().find(|(name, _)| !KNOWN.contains(&name.as_str())) else { return Ok(()) };
    // An invalid name may be part of a password.
    let is_a_name =
        name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-[]".contains(&byte));
    let named = if is_a_name { format!(" {name}") } else { String::new() };
    let hint = match name.as_str() {
        "ssl" | "tls" | "ssl-mode" | "requiressl" => "; use sslmode to configure TLS",
        "target_session_attrs" => "; receiptd connects to one server, the primary",
        "connect_timeout" => "; the connection timeout is always 5 s",
        "keepalives" | "keepalives_idle" | "keepalives_interval" | "keepalives_count" | "tcp_user_timeout" => {
            "; receiptd sets it itself"
        }
        "channel_binding" => "; use sslmode=verify-full for the same protection",
        _ => "",
    };
    fault(format!("has a parameter{named}, which is not supported{hint}. Supported are {}", KNOWN.join(", ")))
}

fn mode_of(text: &str) -> Result<PgSslMode, UrlFault> {
    Ok(match text {
        "disable" => PgSslMode::Disable,
        "prefer" => PgSslMode::Prefer,
        "require" => PgSslMode::Require,
        "verify-ca" => PgSslMode::VerifyCa,
        "verify-full" => PgSslMode::VerifyFull,
        "allow" => {
            return fault(
                "has sslmode=allow, which only uses TLS as a last resort: use disable, prefer or \
            verify-full",
            );
        }
        "no-verify" => {
            return fault(
                "has sslmode=no-verify, which PostgreSQL doesn't have: use require, which encrypts but accepts any \
                 certificate, or better verify-full",
            );
        }
        _ => return fault("has an unknown sslmode: use disable, prefer, require, verify-ca or verify-full"),
    })
}

/// The protection of the connection. Over a network the default is a verified certificate.
fn protection(mode: Option<PgSslMode>, is_local: bool, roots: Option<&str>) -> Result<PgSslMode, UrlFault> {
    match (mode, roots) {
        // Like libpq: any server can get a certificate that the system trusts.
        (Some(PgSslMode::VerifyFull) | None, Some("system")) => Ok(PgSslMode::VerifyFull),
        (Some(_), Some("system")) => fault("has sslrootcert=system, which requires sslmode=verify-full"),
        // Like libpq: with a CA given, the certificate is verified.
        (Some(PgSslMode::Require), Some(_)) => Ok(PgSslMode::VerifyCa),
        (Some(mode), _) => Ok(mode),
        (None, None) if is_local => Ok(PgSslMode::Prefer),
        (None, _) => Ok(PgSslMode::VerifyFull),
    }
}

/// Whether the connection stays on this machine.
fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> PostgresUrl {
        PostgresUrl::parse(url, None).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    fn mode(url: &str) -> String {
        format!("{:?}", read(url).options.get_ssl_mode())
    }

    #[test]
    fn what_psql_takes_leads_to_the_same_place() {
        for (url, place) in [
            ("postgres://me:pw@db.example:5433/app", "postgres://me:***@db.example:5433/app"),
            ("postgresql://me@db.example", "postgres://me@db.example:5432/me"),
            ("postgres://me@[::1]:5433/app", "postgres://me@[::1]:5433/app"),
            ("postgres://me@[2001:db8::1]/app", "postgres://me@[2001:db8::1]:5432/app"),
            ("postgres://me:pw@/app?host=/run/postgresql", "postgres://me:***@/run/postgresql/app"),
            ("postgres://me@%2Frun%2Fpostgresql/app", "postgres://me@/run/postgresql/app"),
            ("postgres:///app?host=/run/postgresql&user=me&password=pw", "postgres://me:***@/run/postgresql/app"),
            ("postgres://me@:5433/app?host=db.example", "postgres://me@db.example:5433/app"),
            ("postgres://me@/?dbname=app&hostaddr=10.0.0.1&port=6432", "postgres://me@10.0.0.1:6432/app"),
            (
                "postgres://me@db.example/app?application_name=&options=-c%20jit%3Doff",
                "postgres://me@db.example:5432/app",
            ),
            (" postgres://me@db.example/app\n", "postgres://me@db.example:5432/app"),
        ] {
            assert_eq!(read(url).to_string(), place, "{url}");
            assert!(!format!("{:?}", read(url)).contains("pw"));
        }
    }

    #[test]
    fn network_urls_verify_the_certificate_unless_told_otherwise() {
        for (url, expected) in [
            ("postgres://me@db.example/app", "VerifyFull"),
            ("postgres://me@10.0.0.1/app", "VerifyFull"),
            ("postgres://me@db.example/app?sslmode=prefer", "Prefer"),
            ("postgres://me@db.example/app?sslmode=require", "Require"),
            ("postgres://me@db.example/app?sslmode=require&sslrootcert=/ca.pem", "VerifyCa"),
            ("postgres://me@db.example/app?sslrootcert=/ca.pem", "VerifyFull"),
            ("postgres://me@db.example/app?sslrootcert=system", "VerifyFull"),
            ("postgres://me@127.0.0.1/app?sslrootcert=system", "VerifyFull"),
            ("postgres://me@localhost/app", "Prefer"),
            ("postgres://me@127.8.8.8/app", "Prefer"),
            ("postgres://me@[::1]/app", "Prefer"),
            ("postgres://me@/app?host=/run/postgresql", "Prefer"),
            ("postgres://me@localhost.example/app", "VerifyFull"),
        ] {
            assert_eq!(mode(url), expected, "{url}");
        }
        let by_environment = PostgresUrl::parse("postgres://me@db.example/app", Some("require")).unwrap();
        assert_eq!(format!("{:?}", by_environment.options.get_ssl_mode()), "Require");
    }

    #[test]
    fn remote_urls_below_verify_full_report_their_exposure() {
        for (query, is_exposed) in [
            ("", false),
            ("?sslmode=verify-full", false),
            ("?sslmode=verify-ca", true),
            ("?sslmode=require", true),
            ("?sslmode=prefer", true),
            ("?sslmode=disable", true),
        ] {
            assert_eq!(
                read(&format!("postgres://me@db.example/app{query}")).exposure().is_some(),
                is_exposed,
                "{query}"
            );
            assert_eq!(read(&format!("postgres://me@localhost/app{query}")).exposure(), None);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_what_to_write_instead() {
        for (url, expected) in [
            ("mysql://me@db/app", "is not a PostgreSQL URL"),
            ("postgres://me@db/app?ssl=true", "parameter ssl, which is not supported; use sslmode to configure TLS"),
            ("postgres://me@db/app?channel_binding=require", "channel_binding"),
            ("postgres://me@db/app?connect_timeout=5", "the connection timeout is always 5 s"),
            ("postgres://me@db/app?keepalives_idle=5", "receiptd sets it itself"),
            ("postgres://me@/app?host=/run/postgresql&port=5432,5433", "several hosts"),
            ("postgres://me@[fe80::1%25eth0]/app", "a zone"),
            ("postgres://me@db/app?sslmod=require", "Supported are application_name, dbname"),
            ("postgres://me@db/app?target_session_attrs=read-write", "the primary"),
            ("postgres://me@db/app?sslmode=no-verify", "use require"),
            ("postgres://me@db/app?sslmode=allow", "use disable, prefer or verify-full"),
            ("postgres://me@db/app?sslmode=Verify", "unknown sslmode"),
            ("postgres://me@db/app?sslmode=require&sslrootcert=system", "requires sslmode=verify-full"),
            ("postgres://me@a,b/app", "several hosts"),
            ("postgres://me@a:5432,b:5433/app", "several hosts"),
            ("postgres://me@/app?host=a,b", "several hosts"),
            ("postgres://me@db/app?hostaddr=10.0.0.1", "hostaddr and a host"),
            ("postgres://db/app", "has no user"),
            ("postgres://me:a/b@db/app", "%2F"),
            ("postgres://me:a#b@db/app", "%23"),
            ("postgres://me@db:port/app", "is invalid"),
        ] {
            let error = PostgresUrl::parse(url, None).expect_err(url).to_string();
            assert!(error.contains(expected), "{url}: {error}");
        }
        let by_environment = PostgresUrl::parse("postgres://me@db/app", Some("always")).unwrap_err().to_string();
        assert!(by_environment.contains("$PGSSLMODE has an unknown sslmode"), "{by_environment}");
        assert!(PostgresUrl::parse("postgres://me@db/app?sslmode=require", Some("always")).is_ok());
        assert_eq!(
            format!("{:?}", PostgresUrl::parse("postgres://me@db/app", Some("")).unwrap().options.get_ssl_mode()),
            "VerifyFull"
        );
        let error = PostgresUrl::parse("postgres://me@db/app?hunter2%20is%20secret", None).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
    #[test]
    fn no_part_of_a_password_that_is_not_escaped_is_shown() {
        for password in
            ["a/canary", "a@b/canary", "canary@b/c", "a?canary", "a@b?canary", "a#canary", "a@b#canary", "a:canary/b"]
        {
            match PostgresUrl::parse(&format!("postgres://me:{password}@db.example/app"), None) {
                Ok(url) => assert!(!url.to_string().contains("canary"), "{password}: {url}"),
                Err(error) => assert!(!error.to_string().contains("canary"), "{password}: {error}"),
            }
        }
        for password in ["a/canary", "a@b/canary", "canary@b/c"] {
            let error = PostgresUrl::parse(&format!("postgres://me:{password}@db.example/app"), None).unwrap_err();
            assert!(error.to_string().contains("%40"), "{password}: {error}");
        }
        assert_eq!(read("postgres://me:a@b@db.example/app").to_string(), "postgres://me:***@db.example:5432/app");
        assert_eq!(read("postgres://me@db.example/a%40b").options.get_database(), Some("a@b"));
    }
}
