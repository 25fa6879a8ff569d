//! The relations between the rooms and files of `src/`: the decisions are pure, and there are no circles.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod modules;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use self::modules::Modules;

/// Signs of code that waits, reads a clock, knows SQL, speaks HTTP or logs.
const IMPURE: [&str; 11] = [
    "tokio",
    "sqlx",
    "reqwest",
    "axum",
    ".await",
    "async fn",
    "tracing::",
    "metrics::",
    "crate::clock",
    "Instant::now",
    "Utc::now",
];

/// The rooms that must have none of these signs.
const PURE: [&str; 2] = ["src/rules", "src/domain"];

#[test]
fn what_decides_is_pure() {
    for room in PURE {
        let files = sources(Path::new(room));
        assert!(!files.is_empty(), "{room} is a room");
        for file in files {
            let code = code(&file);
            for word in IMPURE {
                assert!(!code.contains(word), "{} holds {word:?}", file.display());
            }
        }
    }
}

#[test]
fn no_room_needs_a_room_that_needs_it() {
    let modules = Modules::read();
    let mut needs: Needs<String> = BTreeMap::new();
    for path in modules.paths().filter(|path| path[0] != "cli") {
        let rooms = modules.needs(path).into_iter().map(|needed| needed[0].clone()).filter(|room| *room != path[0]);
        needs.entry(path[0].clone()).or_default().extend(rooms);
    }
    assert!(needs["daemon"].contains("rules") && needs["store"].contains("domain"), "{needs:?}");
    assert_eq!(in_circles(&needs), BTreeMap::new(), "rooms stand in a circle");
}

#[test]
fn no_file_needs_a_file_that_needs_it() {
    let modules = Modules::read();
    let needs: Needs<String> = modules
        .paths()
        .map(|path| (path.join("::"), modules.needs(path).iter().map(|needed| needed.join("::")).collect()))
        .collect();
    for (from, to) in [("store::flush", "store::flush::rows"), ("daemon::poller::claim", "rules::polling::dispatch")] {
        assert!(needs[from].contains(to), "{from} needs {to}: {:?}", needs[from]);
    }
    assert_eq!(in_circles(&needs), BTreeMap::new(), "files stand in a circle");
}

/// The needs of each.
type Needs<T> = BTreeMap<T, BTreeSet<T>>;

/// Those that need themselves by way of others, each with its needs among these.
fn in_circles<T: Ord + Clone>(needs: &Needs<T>) -> Needs<T> {
    let reached = |from: &T| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(at) = next.pop() {
            next.extend(needs.get(at).into_iter().flatten().filter(|to| reached.insert((*to).clone())));
        }
        reached
    };
    let circles: BTreeSet<T> = needs.keys().filter(|at| reached(at).contains(at)).cloned().collect();
    circles.iter().map(|at| (at.clone(), needs[at].intersection(&circles).cloned().collect())).collect()
}

/// All Rust files of a folder, without those that hold only tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "tests" | "scenarios") {
                found.extend(sources(&path));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_tests(&path, &name) {
            found.push(path);
        }
    }
    found
}

fn is_tests(path: &Path, name: &str) -> bool {
    name == "tests" || name == "scenarios" || {
        // Declared as a module for tests by its parent.
        let parent = path.with_file_name("mod.rs");
        let declared = format!("#[cfg(test)]\nmod {name};");
        parent.exists() && fs::read_to_string(parent).unwrap().contains(&declared)
    }
}

/// The code of a file, without comments and without the tests at its end.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
    code.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}
