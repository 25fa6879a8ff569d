//! The modules of `src/`, one per file, and their needs.
//!
//! A module needs the modules whose items it names, wherever it takes the names from. A re-export counts for the module
//! that defines the item, and costs the re-exporting module nothing. Methods are not looked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::{code, sources};

/// The path of a module or an item below `crate`.
pub type Names = Vec<String>;

struct Module {
    /// The code without imports.
    body: String,
    imports: Vec<Import>,
}

struct Import {
    path: Names,
    /// The imported name; `*` for all.
    name: String,
    is_public: bool,
}

/// All modules by their paths.
pub struct Modules(BTreeMap<Names, Module>);

impl Modules {
    pub fn read() -> Self {
        let mut modules = BTreeMap::new();
        for file in sources(Path::new("src")) {
            let names: Vec<&str> = file.iter().skip(1).map(|name| name.to_str().unwrap()).collect();
            let path: Names = match *names.as_slice() {
                ["lib.rs" | "main.rs"] => continue,
                [ref folders @ .., "mod.rs"] => folders.iter().map(ToString::to_string).collect(),
                [ref folders @ .., name] => {
                    folders.iter().chain([&name.trim_end_matches(".rs")]).map(ToString::to_string).collect()
                }
                [] => continue,
            };
            modules.insert(path, Module::parse(&code(&file)));
        }
        Self(modules)
    }

    pub fn paths(&self) -> impl Iterator<Item = &Names> {
        self.0.keys()
    }

    /// The other modules whose items a module names.
    pub fn needs(&self, path: &Names) -> BTreeSet<Names> {
        let module = &self.0[path];
        let mut needs = BTreeSet::new();
        for import in &module.imports {
            let target = self.absolute(path, &import.path);
            let is_used = !import.is_public || words(&module.body).any(|word| word == import.name);
            match target {
                // Items of an imported module are found below.
                Some(target) if is_used && !self.0.contains_key(&target) => needs.extend(self.resolve(&target, 0)),
                _ => {}
            }
        }
        for named in paths(&module.body) {
            let imported = module.imports.iter().find(|import| import.name == named[0]);
            let target = match imported {
                Some(import) => {
                    self.absolute(path, &import.path).map(|target| [target.as_slice(), &named[1..]].concat())
                }
                None => self.absolute(path, &named),
            };
            needs.extend(target.and_then(|target| self.resolve(&target, 0)));
        }
        needs.remove(path);
        needs
    }

    /// A path as seen from a module, from `crate` on. `None` if it leads out of the crate.
    fn absolute(&self, module: &Names, path: &[String]) -> Option<Names> {
        let ups = path.iter().take_while(|name| *name == "super").count();
        let (start, rest) = match path[0].as_str() {
            "crate" => (&[] as &[String], &path[1..]),
            "self" => (module.as_slice(), &path[1..]),
            "super" => (&module[..module.len().checked_sub(ups)?], &path[ups..]),
            child if self.0.contains_key(&[module.as_slice(), &[child.to_owned()]].concat()) => {
                (module.as_slice(), path)
            }
            _ => return None,
        };
        Some([start, rest].concat())
    }

    /// The module that defines an item.
    fn resolve(&self, item: &[String], depth: u32) -> Option<Names> {
        let modules = (0..=item.len()).rev().find(|length| self.0.contains_key(&item[..*length]))?;
        let (at, rest) = (item[..modules].to_vec(), &item[modules..]);
        let (Some(name), true) = (rest.first(), depth < 8) else { return Some(at) };
        let imports = &self.0[&at].imports;
        let exported = imports.iter().find(|import| import.name == *name && !self.0[&at].defines(name));
        let target = exported.and_then(|import| self.absolute(&at, &import.path));
        let through = target.and_then(|target| self.resolve(&[&target, &rest[1..]].concat(), depth + 1));
        Some(through.unwrap_or(at))
    }
}

impl Module {
    fn parse(code: &str) -> Self {
        let (mut body, mut imports) = (String::new(), vec![]);
        let mut lines = code.lines();
        while let Some(line) = lines.next() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_public = words.first().is_some_and(|word| word.starts_with("pub"));
            let first = words.iter().position(|word| matches!(*word, "use" | "mod")).filter(|at| *at <= 2);
            match first.map(|at| words[at]) {
                Some("mod") if line.ends_with(';') => {}
                Some("use") => {
                    let mut tree = line.split_once("use ").unwrap().1.to_owned();
                    while !tree.contains(';') {
                        tree.push_str(lines.next().unwrap_or(";"));
                    }
                    expand(tree.trim().trim_end_matches(';'), &[], is_public, &mut imports);
                }
                _ => body.extend([without_visibility(line).as_str(), "\n"]),
            }
        }
        Self { body, imports }
    }

    fn defines(&self, name: &str) -> bool {
        let all: Vec<&str> = words(&self.body).collect();
        let is_definition =
            |pair: &[&str]| pair[1] == name && matches!(pair[0], "struct" | "enum" | "trait" | "fn" | "const" | "type");
        all.windows(2).any(is_definition)
    }
}

/// Visibility such as `pub(in crate::store)` needs no module.
fn without_visibility(line: &str) -> String {
    match line.split_once("(in ") {
        Some((before, after)) => format!("{before}{}", after.split_once(')').map_or("", |(_, rest)| rest)),
        None => line.to_owned(),
    }
}

/// All imports of a tree such as `a::{b, c as d}`.
fn expand(tree: &str, before: &[String], is_public: bool, found: &mut Vec<Import>) {
    let tree = tree.trim();
    if let Some((head, group)) = tree.split_once('{') {
        let path: Names = before.iter().cloned().chain(names(head)).collect();
        let group = group.trim_end().strip_suffix('}').unwrap_or(group);
        split_at_commas(group).into_iter().for_each(|part| expand(part, &path, is_public, found));
        return;
    }
    let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias.to_owned())));
    let mut path: Names = before.iter().cloned().chain(names(path)).collect();
    if path.len() > 1 {
        path.pop_if(|last| last == "self");
    }
    if let Some(last) = path.last().cloned() {
        found.push(Import { name: alias.unwrap_or(last), path, is_public });
    }
}

fn names(path: &str) -> impl Iterator<Item = String> {
    path.split("::").map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn split_at_commas(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, vec![]);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    parts.into_iter().filter(|part| !part.trim().is_empty()).collect()
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|character: char| !character.is_alphanumeric() && character != '_').filter(|word| !word.is_empty())
}

/// The paths of at least two names in code.
fn paths(code: &str) -> impl Iterator<Item = Names> {
    let parts = code.split(|character: char| !character.is_alphanumeric() && !matches!(character, '_' | ':'));
    let path =
        |part: &str| -> Names { part.split("::").map(str::to_owned).take_while(|name| !name.is_empty()).collect() };
    parts.filter(|part| part.contains("::")).map(path).filter(|path| path.len() > 1)
}
