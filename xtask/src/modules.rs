//! The modules of one crate and the dependencies between them.
//!
//! A dependency is a path that leads from one module into another that is neither its ancestor nor its descendant.
//! Parent and child may name each other. Siblings, each with everything inside it, must not depend on each other in a
//! cycle. A name that a parent imports from a child (`use child::Name`) leads to the child.

use std::collections::{BTreeMap, BTreeSet};

use crate::code;

/// A module's path from the crate's root, the root being empty.
pub type Module = Vec<String>;

/// The modules of one crate.
#[derive(Default)]
pub struct Modules {
    files: BTreeMap<Module, String>,
    paths: BTreeMap<Module, Vec<Vec<String>>>,
    /// Names that a module imports from its children, and the modules that they lead to.
    imported: BTreeMap<Module, BTreeMap<String, Module>>,
}

/// For each dependency between two siblings, the uses that cause it: file and path.
pub type Dependencies = BTreeMap<(Module, Module), BTreeSet<(String, String)>>;

impl Modules {
    /// Reads the modules in `files`, given as path below `src/` and text.
    pub fn read<'t>(files: impl IntoIterator<Item = (&'t str, &'t str)>) -> Self {
        let mut modules = Self::default();
        for (file, source) in files {
            if let Some(module) = module_of(file) {
                let paths = paths(&code::searchable(source));
                modules.files.insert(module.clone(), file.to_owned());
                modules.paths.entry(module).or_default().extend(paths);
            }
        }
        let all: Vec<Module> = modules.files.keys().cloned().collect();
        for module in all {
            let imported = modules.imported_names(&module);
            modules.imported.insert(module, imported);
        }
        modules
    }

    /// All dependencies between siblings.
    pub fn dependencies(&self) -> Dependencies {
        let mut dependencies = Dependencies::new();
        for (from, paths) in &self.paths {
            for path in paths {
                let Some(to) = self.resolve(from, path) else {
                    continue;
                };
                let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                if shared == from.len() || shared == to.len() {
                    continue;
                }
                let ends = (from[..=shared].to_vec(), to[..=shared].to_vec());
                let file = self.files.get(from).cloned().unwrap_or_default();
                dependencies
                    .entry(ends)
                    .or_default()
                    .insert((file, path.join("::")));
            }
        }
        dependencies
    }

    /// The innermost module that `path`, used in the module `from`, leads to.
    fn resolve(&self, from: &Module, path: &[String]) -> Option<Module> {
        let mut at = from.clone();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => (at, rest) = (Vec::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|word| word == "super") {
                    at.pop()?;
                    rest = &rest[1..];
                }
            }
            _ => {}
        }
        for name in rest {
            let inner: Module = at.iter().cloned().chain([name.clone()]).collect();
            if self.files.contains_key(&inner) {
                at = inner;
            } else {
                return Some(
                    self.imported
                        .get(&at)
                        .and_then(|names| names.get(name))
                        .cloned()
                        .unwrap_or(at),
                );
            }
        }
        Some(at)
    }

    fn imported_names(&self, module: &Module) -> BTreeMap<String, Module> {
        let paths = self.paths.get(module).into_iter().flatten();
        let inner = paths.filter_map(|path| {
            let to = self.resolve(module, path)?;
            let name = path.last()?.clone();
            (to.len() > module.len() && to.starts_with(module) && to.last() != Some(&name))
                .then_some((name, to))
        });
        inner.collect()
    }
}

/// The groups of modules that depend on each other, each sorted.
pub fn cycles(dependencies: &Dependencies) -> Vec<Vec<Module>> {
    let mut reach: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
    for (from, to) in dependencies.keys() {
        reach.entry(from).or_default().insert(to);
    }
    loop {
        let before: usize = reach.values().map(BTreeSet::len).sum();
        let step = reach.clone();
        for reached in reach.values_mut() {
            let further: Vec<&Module> = reached
                .iter()
                .filter_map(|to| step.get(*to))
                .flatten()
                .copied()
                .collect();
            reached.extend(further);
        }
        if reach.values().map(BTreeSet::len).sum::<usize>() == before {
            break;
        }
    }
    let mutual = |a: &Module| -> Vec<Module> {
        let back = |b: &&&Module| reach.get(**b).is_some_and(|reached| reached.contains(a));
        reach[a].iter().filter(back).map(|b| (*b).clone()).collect()
    };
    let groups: BTreeSet<Vec<Module>> = reach
        .keys()
        .filter(|a| reach[**a].contains(**a))
        .map(|a| mutual(a))
        .collect();
    groups.into_iter().collect()
}

/// `a/mod.rs` and `a.rs` are `a`, `lib.rs` and `main.rs` the root. Binaries in `bin/` are crates of their own.
fn module_of(file: &str) -> Option<Module> {
    let inner = file.strip_suffix(".rs")?;
    let mut module: Module = inner.split('/').map(str::to_owned).collect();
    match module.last()?.as_str() {
        _ if module[0] == "bin" => return None,
        "lib" | "main" if module.len() == 1 => module.clear(),
        "mod" => drop(module.pop()),
        _ => {}
    }
    Some(module)
}

/// Every path in `code` that starts with `crate`, `super` or `self`, and every imported path.
fn paths(code: &str) -> Vec<Vec<String>> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let leads = tokens.get(at + 1).is_some_and(|next| next == "::");
        let inside = at > 0 && tokens[at - 1] == "::";
        if matches!(token.as_str(), "crate" | "super" | "self") && leads && !inside {
            tree(&tokens, at, &[], &mut found);
        } else if token == "use"
            && !matches!(
                tokens[at + 1..].first().map(String::as_str),
                Some("crate" | "super" | "self")
            )
        {
            tree(&tokens, at + 1, &[], &mut found);
        }
    }
    found
}

/// Reads one path or import tree at `at` into `found`, one path per leaf. Returns where it ends.
fn tree(
    tokens: &[String],
    mut at: usize,
    before: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = before.to_vec();
    let token = |at: usize| tokens.get(at).map_or("", String::as_str);
    loop {
        match token(at) {
            "{" => {
                at += 1;
                while !matches!(token(at), "}" | "") {
                    at = tree(tokens, at, &path, found);
                    at += usize::from(token(at) == ",");
                }
                return at + 1;
            }
            "*" => at += 1,
            "self" if !before.is_empty() => at += 1,
            word if is_word(word) => {
                path.push(word.to_owned());
                at += 1;
            }
            _ => {
                // Not a path, as in `use<'a>`.
                return at + 1;
            }
        }
        if token(at) == "::" && (is_word(token(at + 1)) || matches!(token(at + 1), "{" | "*")) {
            at += 1;
            continue;
        }
        if token(at) == "as" {
            at += 2;
        }
        found.push(path);
        return at;
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::`, and single characters.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            c if c.is_alphanumeric() || c == '_' => rest
                .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                .unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            c => c.len_utf8(),
        };
        tokens.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let groups = cycles(&Modules::read(files.iter().copied()).dependencies());
        groups
            .iter()
            .map(|group| group.iter().map(|module| module.join("::")).collect())
            .collect()
    }

    #[test]
    fn siblings_that_name_each_other_are_a_cycle() {
        for (name, a, b) in [
            ("imports", "use crate::b::B;", "use super::a::A;"),
            (
                "groups",
                "use crate::{x, b::{self, B as C}};",
                "use crate::{a::*};",
            ),
            (
                "paths in code",
                "fn f() { crate::b::g() }",
                "type A = super::a::A;",
            ),
            (
                "from the inside",
                "use crate::b::B;",
                "mod in_b; use in_b::C; fn f() { self::in_b::g() }",
            ),
        ] {
            let files = [
                ("lib.rs", "mod a; mod b;"),
                ("a.rs", a),
                ("b/mod.rs", b),
                ("b/in_b.rs", "use crate::a::A;"),
            ];
            assert_eq!(found(&files), [["a", "b"]], "{name}");
        }
    }

    #[test]
    fn cycles_may_be_longer_or_inside_a_module() {
        let files = [
            ("lib.rs", ""),
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "use crate::c::C;"),
            ("c.rs", "use crate::a::A;"),
            ("d/mod.rs", ""),
            ("d/e.rs", "use super::f::F;"),
            ("d/f.rs", "use crate::d::e::E;"),
        ];
        assert_eq!(found(&files), [vec!["a", "b", "c"], vec!["d::e", "d::f"]]);
    }

    #[test]
    fn a_name_imported_from_a_child_leads_to_the_child() {
        let files = [
            ("lib.rs", "mod a; mod b; pub use a::A;"),
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "use crate::A;"),
        ];
        assert_eq!(found(&files), [["a", "b"]]);
    }

    #[test]
    fn parents_children_tests_and_comments_make_no_cycle() {
        let files = [
            (
                "lib.rs",
                "mod a; mod b; pub(crate) struct Own; use a::A; use std::fmt;",
            ),
            ("a.rs", "use crate::Own; use super::b::B;"),
            (
                "b.rs",
                "// use crate::a::A;\nuse crate::Own; pub(crate) fn f() {} #[cfg(test)] mod tests { use crate::a::A; }",
            ),
            ("bin/tool.rs", "use crate::b::B;"),
        ];
        assert_eq!(found(&files), Vec::<Vec<String>>::new());
    }
}
