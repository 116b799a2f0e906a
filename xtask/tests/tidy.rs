//! Rules of this repository that no compiler keeps. Each says what is wrong and where.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use xtask::modules::{Modules, cycles};
use xtask::{code, repository, settings};

/// The longest a Rust file may be, its tests not counted.
const MAX_LINES: usize = 500;
/// Files that may be longer, each with the reason: lists that are one thing.
const LONG_LISTS: [(&str, &str); 0] = [];
/// Groups of modules that may know each other: crate, modules, reason.
const KNOWN_CYCLES: [(&str, &[&str], &str); 0] = [];

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

fn rust_sources() -> Vec<String> {
    repository::crates()
        .iter()
        .flat_map(|folder| repository::sources(folder))
        .collect()
}

#[test]
fn no_file_is_too_long() {
    let mut found = Vec::new();
    for file in rust_sources() {
        let source = repository::read(&file);
        let lines = code::without(&source, &code::tests(&source))
            .lines()
            .count();
        let may = LONG_LISTS.iter().any(|(list, _)| *list == file);
        if lines > MAX_LINES && !may {
            found.push(format!(
                "{file}: {lines} lines without tests; split it by what it is about"
            ));
        }
        if lines <= MAX_LINES && may {
            found.push(format!("{file}: short enough now; take it off LONG_LISTS"));
        }
    }
    assert_none("files over 500 lines", &found);
}

#[test]
fn every_module_says_what_it_is_for() {
    let opens = |file: &String| repository::read(file).trim_start().starts_with("//! ");
    let files = repository::files();
    let in_src = |file: &&String| file.ends_with(".rs") && file.contains("/src/");
    let found: Vec<String> = files
        .iter()
        .filter(in_src)
        .filter(|file| !opens(file))
        .cloned()
        .collect();
    assert_none(
        "modules that do not open with `//! ` and a sentence",
        &found,
    );
}

#[test]
fn no_modules_of_a_crate_import_each_other_in_a_circle() {
    let mut found = Vec::new();
    for folder in repository::crates() {
        let home = format!("{folder}/src/");
        let texts: Vec<(String, String)> = repository::sources(&folder)
            .into_iter()
            .map(|file| (file[home.len()..].to_owned(), repository::read(&file)))
            .collect();
        let arrows = Modules::read(
            texts
                .iter()
                .map(|(file, text)| (file.as_str(), text.as_str())),
        )
        .arrows();
        let groups = cycles(&arrows);
        for group in &groups {
            let names: Vec<String> = group.iter().map(|module| module.join("::")).collect();
            if KNOWN_CYCLES
                .iter()
                .any(|(home, modules, _)| *home == folder && *modules == names)
            {
                continue;
            }
            let inside = arrows
                .iter()
                .filter(|((from, to), _)| group.contains(from) && group.contains(to));
            let uses: Vec<String> = inside
                .flat_map(|(_, uses)| uses)
                .map(|(file, path)| format!("    {home}{file}: {path}"))
                .collect();
            found.push(format!(
                "{folder}: {}\n{}",
                names.join(" <-> "),
                uses.join("\n")
            ));
        }
        for (_, modules, _) in KNOWN_CYCLES.iter().filter(|(home, ..)| *home == folder) {
            let stands = |group: &Vec<Vec<String>>| {
                group
                    .iter()
                    .map(|module| module.join("::"))
                    .eq(modules.iter().copied())
            };
            if !groups.iter().any(stands) {
                found.push(format!(
                    "{folder}: {} is no cycle any more; take it off KNOWN_CYCLES",
                    modules.join(" <-> ")
                ));
            }
        }
    }
    assert_none("modules that import each other in a circle", &found);
}

#[test]
fn every_crate_keeps_the_lints_of_the_workspace() {
    let keeps = |folder: &String| {
        let manifest: toml::Table = repository::read(&format!("{folder}/Cargo.toml"))
            .parse()
            .unwrap();
        manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"))
            .and_then(toml::Value::as_bool)
            == Some(true)
    };
    let crates = repository::crates();
    assert!(crates.len() >= 6, "{crates:?}");
    let found: Vec<String> = crates.into_iter().filter(|folder| !keeps(folder)).collect();
    assert_none("crates without `[lints] workspace = true`", &found);
}

#[test]
fn no_file_names_a_machine_or_a_registry() {
    // Put together here, so that this file does not hold them.
    let words = [
        ["/ro", "ot/"].concat(),
        ["/wo", "rk/"].concat(),
        ["crates", ".io"].concat(),
        ["pypi", ".org"].concat(),
        ["registry.npm", "js.org"].concat(),
        ["deb.deb", "ian.org"].concat(),
        ["proxy.go", "lang.org"].concat(),
    ];
    let mut found = Vec::new();
    for file in repository::files()
        .iter()
        .filter(|file| !file.ends_with("Cargo.lock"))
    {
        for (number, line) in repository::read(file).lines().enumerate() {
            let named = words.iter().filter(|word| line.contains(&***word));
            found.extend(named.map(|word| format!("{file}:{}: {word}", number + 1)));
        }
    }
    assert_none(
        "paths of one machine, or registries (which the environment chooses)",
        &found,
    );
}

#[test]
fn dependencies_are_locked_and_come_from_wherever_the_environment_says() {
    let files = repository::files();
    assert!(
        files.iter().any(|file| file == "Cargo.lock"),
        "Cargo.lock is not there"
    );
    let resolved = |file: &&String| repository::read(file).contains("\"resolved\"");
    let found: Vec<String> = files
        .iter()
        .filter(|file| file.ends_with("package-lock.json"))
        .filter(resolved)
        .cloned()
        .collect();
    assert_none(
        "package-lock.json files that name hosts (npm's omit-lockfile-registry-resolved leaves them out)",
        &found,
    );
}

/// That the guide lists what the code asks for is told by the tests of the configuration; so this holds the example against both.
#[test]
fn the_example_of_the_tests_has_every_setting_of_the_guide_and_no_other() {
    let example = repository::read("crates/keypool/src/config/tests/example.toml");
    let (known, told) = (
        settings::of_configuration(&example),
        settings::of_guide(&repository::read("docs/configuration.md")),
    );
    let untold: Vec<String> = known.difference(&told).cloned().collect();
    assert_none("settings that docs/configuration.md does not list", &untold);
    let unknown: Vec<String> = told.difference(&known).cloned().collect();
    assert_none(
        "settings in docs/configuration.md that the tests' example.toml does not have",
        &unknown,
    );
}

#[test]
fn the_guide_names_every_variable_that_is_read() {
    let guide = repository::read("docs/configuration.md");
    let sources = repository::sources("crates/keypool");
    let read: BTreeSet<String> = sources
        .iter()
        .flat_map(|file| settings::own_variables(&repository::read(file)))
        .collect();
    assert!(read.contains("KEYPOOL_CONFIG"), "{read:?}");
    let providers = repository::sources("crates/providers");
    let of_providers = providers
        .iter()
        .flat_map(|file| code::literals(&repository::read(file)));
    let is_variable = |text: &String| text.ends_with("_API_KEY") || text.ends_with("_BASE_URL");
    let read = read.into_iter().chain(of_providers.filter(is_variable));
    let untold: Vec<String> = read
        .filter(|name| !guide.contains(&format!("`{name}`")))
        .collect();
    assert_none(
        "variables that docs/configuration.md does not name",
        &untold,
    );
}

#[test]
fn the_guide_lists_every_error_code_and_no_other() {
    let mut codes = settings::codes(&repository::read("crates/gateway/src/error.rs"));
    for file in repository::sources("crates/gateway") {
        if file.contains("/admin/") {
            codes.extend(problem_codes(&repository::read(&file)));
        }
    }
    assert!(
        codes.contains("no_key_available") && codes.contains("invalid_admin_token"),
        "{codes:?}"
    );
    let told = settings::rows(&repository::read("docs/errors.md"));
    let untold: Vec<String> = codes.difference(&told).cloned().collect();
    assert_none("codes that docs/errors.md does not list", &untold);
    let unknown: Vec<String> = told.difference(&codes).cloned().collect();
    assert_none("codes in docs/errors.md that no code gives", &unknown);
}

/// The second argument of every `Problem::new(StatusCode::…, "code", …)`.
fn problem_codes(source: &str) -> BTreeSet<String> {
    let calls = source.split("StatusCode::").skip(1);
    let code = |call: &str| {
        let (_, rest) = call.split_once(',')?;
        let (code, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
        Some(code.to_owned())
    };
    calls.filter_map(code).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut found = Vec::new();
    for file in repository::files()
        .iter()
        .filter(|file| file.ends_with(".md"))
    {
        for target in repository::read(file)
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains(':') {
                continue;
            }
            let from = Path::new(file).parent().unwrap_or(Path::new(""));
            if !repository::root().join(normal(&from.join(path))).exists() {
                found.push(format!("{file}: {target}"));
            }
        }
    }
    assert_none("links that lead nowhere", &found);
}

fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::Normal(part) => out.push(part),
            _ => {}
        }
    }
    out
}
