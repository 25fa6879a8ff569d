//! How the rooms of `src/` stand to each other: what decides is pure, and no room needs one that needs it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What waits, reads a clock, knows SQL, speaks HTTP or logs.
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

/// The rooms that nothing of that may leak into.
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
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in sources(Path::new("src")) {
        let Some(room) = room(&file) else { continue };
        needs.entry(room.clone()).or_default().extend(named(&code(&file)).into_iter().filter(|other| *other != room));
    }
    assert!(needs["daemon"].contains("rules") && needs["store"].contains("domain"), "{needs:?}");
    let direct = needs.clone();
    // As many steps as there are rooms reach everything that can be reached.
    for _ in 0..needs.len() {
        let known = needs.clone();
        for reached in needs.values_mut() {
            let further: Vec<String> =
                reached.iter().flat_map(|room| known.get(room).into_iter().flatten().cloned()).collect();
            reached.extend(further);
        }
    }
    let circles: Vec<&String> =
        needs.iter().filter(|(room, reached)| reached.contains(*room)).map(|(room, _)| room).collect();
    assert!(circles.is_empty(), "{circles:?} stand in a circle: {direct:#?}");
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

/// The door of `src/` behind which a file lies; none for the program itself, which may use everything.
fn room(file: &Path) -> Option<String> {
    let door = file.iter().nth(1)?.to_str()?.trim_end_matches(".rs");
    (!matches!(door, "cli" | "main" | "lib")).then(|| door.to_owned())
}

/// The rooms that code names: after `crate::`, or at the first level of `use crate::{…}`.
fn named(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        let Some(group) = after.strip_prefix('{') else {
            rooms.extend(word(after));
            continue;
        };
        let mut depth = 0;
        let mut is_first = true;
        for (at, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => is_first = true,
                character if is_first && depth == 0 && !character.is_whitespace() => {
                    rooms.extend(word(&group[at..]));
                    is_first = false;
                }
                _ => {}
            }
        }
    }
    rooms
}

/// The name that a path begins with.
fn word(path: &str) -> Option<String> {
    let name: String =
        path.chars().take_while(|character| character.is_ascii_lowercase() || *character == '_').collect();
    (!name.is_empty()).then_some(name)
}
