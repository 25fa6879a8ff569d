//! Selects a PostgreSQL installation: the newest, or the one that wrote the data. Never downloads or installs
//! anything.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{EmbeddedError, programs};

/// The oldest version that the schema supports.
const OLDEST_VERSION: u32 = crate::store::Store::OLDEST_SERVER.unsigned_abs();

/// Where packages install the programs, with one directory per version: parent, prefix of the version's directory,
/// and the path from there to the programs.
const USUAL_PLACES: [(&str, &str, &str); 8] = [
    ("/usr/lib/postgresql", "", "bin"),          // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),                   // PostgreSQL's own RPMs
    ("/usr/lib", "postgresql", "bin"),           // openSUSE, Gentoo
    ("/usr/libexec", "postgresql", ""),          // Alpine
    ("/usr/local", "pgsql", "bin"),              // built from source
    ("/opt/homebrew/opt", "postgresql@", "bin"), // Homebrew
    ("/usr/local/opt", "postgresql@", "bin"),    // Homebrew on Intel
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// PostgreSQL's programs of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installation {
    /// The major version: 15 of 15.18.
    pub(super) version: u32,
    /// The directory of the programs.
    pub(super) bin: PathBuf,
}

impl Installation {
    /// The installation for the data in `data_dir`, of version `data`, or for new data.
    pub(super) fn find(data: Option<u32>, data_dir: &Path) -> Result<Self, EmbeddedError> {
        let installed: Vec<Self> = candidates().into_iter().filter_map(Self::at).collect();
        choose(installed, data, data_dir)
    }

    fn at(bin: PathBuf) -> Option<Self> {
        let complete = programs::NEEDED.iter().all(|program| bin.join(program).is_file());
        let mut postgres = Command::new(bin.join("postgres"));
        postgres.arg("--version");
        let version = if complete { parse_version(&programs::output(postgres).ok()?) } else { None };
        Some(Self { version: version?, bin })
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> =
        USUAL_PLACES.iter().flat_map(|(parent, prefix, rest)| versions_in(Path::new(parent), prefix, rest)).collect();
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()).filter(|path| path.is_absolute()));
    places
}

fn versions_in(parent: &Path, prefix: &str, rest: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let versions = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    versions.map(|entry| entry.path().join(rest)).collect()
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn parse_version(output: &str) -> Option<u32> {
    let number = output.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

fn choose(installed: Vec<Installation>, data: Option<u32>, data_dir: &Path) -> Result<Installation, EmbeddedError> {
    let newest = installed.iter().map(|one| one.version).max().ok_or(EmbeddedError::NotInstalled)?;
    if let Some(data) = data
        && !installed.iter().any(|one| one.version == data)
    {
        return Err(EmbeddedError::OtherVersion { data_dir: data_dir.into(), data, found: list(&installed) });
    }
    let wanted = data.unwrap_or(newest);
    if wanted < OLDEST_VERSION {
        return Err(EmbeddedError::TooOld { found: wanted, minimum: OLDEST_VERSION });
    }
    installed.into_iter().find(|one| one.version == wanted).ok_or(EmbeddedError::NotInstalled)
}

fn list(installed: &[Installation]) -> String {
    let mut versions: Vec<u32> = installed.iter().map(|one| one.version).collect();
    versions.sort_unstable();
    versions.dedup();
    versions.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(versions: &[(u32, &str)], data: Option<u32>) -> Result<String, String> {
        let installed = versions.iter().map(|&(version, bin)| Installation { version, bin: bin.into() }).collect();
        choose(installed, data, Path::new("/data"))
            .map(|installation| installation.bin.display().to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn new_data_gets_the_newest_version_from_its_first_place() {
        let installed = [(9, "/9"), (15, "/15"), (17, "/17"), (17, "/path"), (16, "/16")];
        assert_eq!(chosen(&installed, None).as_deref(), Ok("/17"));
    }

    #[test]
    fn data_that_stands_gets_the_version_that_wrote_it() {
        assert_eq!(chosen(&[(17, "/17"), (15, "/15")], Some(15)).as_deref(), Ok("/15"));
    }

    #[test]
    fn data_of_a_missing_version_is_refused_with_a_remedy() {
        let error = chosen(&[(17, "/17"), (16, "/16"), (17, "/path")], Some(15)).unwrap_err();
        assert_eq!(
            error,
            "/data contains data of PostgreSQL 15, but the server programs here are of PostgreSQL 16, 17: install \
             PostgreSQL 15 (on Debian and Ubuntu: apt-get install postgresql-15), or choose another data directory"
        );
    }

    #[test]
    fn a_machine_without_a_server_gets_a_one_line_remedy() {
        for data in [None, Some(15)] {
            let error = chosen(&[], data).unwrap_err();
            assert!(error.contains("apt-get install postgresql"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn versions_too_old_are_refused() {
        let expected = "PostgreSQL 13 is too old: receiptd needs PostgreSQL 15 or later";
        assert_eq!(chosen(&[(13, "/13"), (12, "/12")], None).unwrap_err(), expected);
        assert_eq!(chosen(&[(13, "/13"), (15, "/15")], Some(13)).unwrap_err(), expected);
    }

    #[test]
    fn the_version_is_read_from_what_postgres_says_of_itself() {
        let table = [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18beta1\n", Some(18)),
            ("postgres (PostgreSQL) 17\n", Some(17)),
            ("postgres (PostgreSQL) 9.6.24\n", Some(9)),
            ("postgres (EnterpriseDB) 15.3\n", None),
            ("postgres (PostgreSQL) devel\n", None),
            ("", None),
        ];
        for (output, expected) in table {
            assert_eq!(parse_version(output), expected, "{output:?}");
        }
    }

    #[test]
    fn every_version_under_a_place_is_seen_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        for name in ["pgsql-15", "pgsql-16", "share"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        let mut found = versions_in(place.path(), "pgsql-", "bin");
        found.sort();
        assert_eq!(found, ["pgsql-15/bin", "pgsql-16/bin"].map(|path| place.path().join(path)));
        assert_eq!(versions_in(&place.path().join("absent"), "", "bin"), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_directory_without_all_programs_is_no_installation() {
        let bin = tempfile::tempdir().unwrap();
        fs::write(bin.path().join("postgres"), "").unwrap();
        assert_eq!(Installation::at(bin.path().into()), None);
    }
}
