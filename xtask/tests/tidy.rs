//! Rules of this repository that no compiler checks. Each failure says what is wrong and where.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use xtask::modules::{Modules, cycles};
use xtask::{code, repository, settings, words};

/// Maximum number of lines of a Rust file, without its tests.
const MAX_LINES: usize = 500;
/// Files that may be longer, with the reason: a single long list.
const LONG_LISTS: &[(&str, &str)] = &[];
/// Groups of modules that may depend on each other: crate, modules, reason.
const KNOWN_CYCLES: &[(&str, &[&str], &str)] = &[];
/// Maximum length of the name of a test function. A longer one usually tests two things.
const MAX_TEST_NAME: usize = 70;

/// Words that identifiers and comments must not use, and what to write instead. They come from a vocabulary that was
/// peculiar to this code, or are old-fashioned; the replacements are the standard terms of proxies.
const RETIRED_WORDS: &[(&str, &str)] = &[
    ("rests", "cooldown"),
    ("rested", "cooled down"),
    ("set aside", "ejected"),
    ("on trial", "probe"),
    ("ramp", "slow start"),
    ("board", "availability"),
    ("census", "status, or key counts"),
    ("outlook", "next available"),
    ("outlooks", "availability cache"),
    ("homes", "affinity ring"),
    ("story", "request log"),
    ("unforced", "not implemented"),
    ("in force", "current, or implemented"),
    ("untold", "pending, or not reported"),
    (
        "is told",
        "name who does it: \"the log says\", \"the caller gets\"",
    ),
    (
        "are told",
        "name who does it: \"the log says\", \"the caller gets\"",
    ),
    ("spelt", "written, or canonical"),
    ("likeliest", "most likely"),
    ("reckon", "compute"),
    ("reckons", "computes"),
    ("reckoned", "computed"),
    ("well again", "recovered"),
    ("cannot be had", "is not available"),
    ("in vain", "without success, or failed"),
    ("under way", "in flight"),
    ("time is up", "the deadline, or the timeout, has passed"),
    ("time was up", "the deadline, or the timeout, had passed"),
    ("can be had", "is available"),
    ("could be had", "was available"),
    ("is not told", "does not learn"),
    ("whoever", "name who: \"the call that …\""),
    ("so many", "state the number: \"Maximum number of …\""),
    ("so much", "state the amount: \"Maximum size of …\""),
    ("so long", "state the duration: \"How long …\""),
    ("as far as", "if, or up to"),
    ("that there is not", "that does not exist"),
    ("gives way", "say what happens: is refused, is dropped"),
    ("give way", "say what happens: is refused, is dropped"),
    ("of its own accord", "by itself"),
    ("but for", "except for"),
    ("for ever", "forever"),
    ("seldom", "rarely"),
    ("anew", "again"),
    ("whoever", "anyone who, or a noun: the caller, the client"),
];

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
        let is_listed = LONG_LISTS.iter().any(|(list, _)| *list == file);
        if lines > MAX_LINES && !is_listed {
            found.push(format!(
                "{file}: {lines} lines without tests; split it by subject"
            ));
        }
        if lines <= MAX_LINES && is_listed {
            found.push(format!(
                "{file}: short enough now; remove it from LONG_LISTS"
            ));
        }
    }
    assert_none("files over 500 lines", &found);
}

/// All Rust files, tests and benchmarks included, with their text.
fn all_rust() -> Vec<(String, String)> {
    let files = repository::files().into_iter();
    let rust = files.filter(|file| file.ends_with(".rs"));
    let with_text = |file: String| (file.clone(), repository::read(&file));
    rust.map(with_text).collect()
}

#[test]
fn no_retired_word_is_used() {
    let phrases: Vec<&str> = RETIRED_WORDS.iter().map(|(phrase, _)| *phrase).collect();
    let instead = |phrase| {
        let entry = RETIRED_WORDS.iter().find(|(retired, _)| *retired == phrase);
        entry.map_or("", |(_, instead)| *instead)
    };
    let mut found = Vec::new();
    for (file, text) in all_rust() {
        for (line, phrase) in words::uses(&text, &phrases) {
            found.push(format!("{file}:{line}: `{phrase}`; {}", instead(phrase)));
        }
    }
    assert_none("retired words, and what to write instead", &found);
}

#[test]
fn test_names_are_short() {
    let mut found = Vec::new();
    for (file, text) in all_rust() {
        let names = code::test_names(&text).into_iter();
        let long = names.filter(|(_, name)| name.len() > MAX_TEST_NAME);
        found.extend(long.map(|(line, name)| format!("{file}:{line}: {name}")));
    }
    assert_none("test names over 70 characters", &found);
}

#[test]
fn modules_with_children_are_mod_rs_files() {
    let files = repository::files();
    let has_folder = |file: &&String| {
        let Some(module) = file.strip_suffix(".rs") else {
            return false;
        };
        let folder = format!("{module}/");
        files.iter().any(|file| file.starts_with(&folder))
    };
    let found: Vec<String> = files.iter().filter(has_folder).cloned().collect();
    assert_none(
        "files beside a folder of the same name; move each into it as mod.rs",
        &found,
    );
}

#[test]
fn every_module_starts_with_its_purpose() {
    let has_header = |file: &String| repository::read(file).trim_start().starts_with("//! ");
    let files = repository::files();
    let in_src = |file: &&String| file.ends_with(".rs") && file.contains("/src/");
    let found: Vec<String> = files
        .iter()
        .filter(in_src)
        .filter(|file| !has_header(file))
        .cloned()
        .collect();
    assert_none(
        "modules that do not start with `//! ` and a sentence",
        &found,
    );
}

#[test]
fn no_modules_of_a_crate_depend_on_each_other_in_a_cycle() {
    let mut found = Vec::new();
    for folder in repository::crates() {
        let src = format!("{folder}/src/");
        let texts: Vec<(String, String)> = repository::sources(&folder)
            .into_iter()
            .map(|file| (file[src.len()..].to_owned(), repository::read(&file)))
            .collect();
        let dependencies = Modules::read(
            texts
                .iter()
                .map(|(file, text)| (file.as_str(), text.as_str())),
        )
        .dependencies();
        let groups = cycles(&dependencies);
        for group in &groups {
            let names: Vec<String> = group.iter().map(|module| module.join("::")).collect();
            if KNOWN_CYCLES
                .iter()
                .any(|(known, modules, _)| *known == folder && *modules == names)
            {
                continue;
            }
            let inside = dependencies
                .iter()
                .filter(|((from, to), _)| group.contains(from) && group.contains(to));
            let uses: Vec<String> = inside
                .flat_map(|(_, uses)| uses)
                .map(|(file, path)| format!("    {src}{file}: {path}"))
                .collect();
            found.push(format!(
                "{folder}: {}\n{}",
                names.join(" <-> "),
                uses.join("\n")
            ));
        }
        for (_, modules, _) in KNOWN_CYCLES.iter().filter(|(known, ..)| *known == folder) {
            let is_this = |group: &Vec<Vec<String>>| {
                group
                    .iter()
                    .map(|module| module.join("::"))
                    .eq(modules.iter().copied())
            };
            if !groups.iter().any(is_this) {
                found.push(format!(
                    "{folder}: {} is no longer a cycle; remove it from KNOWN_CYCLES",
                    modules.join(" <-> ")
                ));
            }
        }
    }
    assert_none("modules that depend on each other in a cycle", &found);
}

#[test]
fn every_crate_inherits_the_lints_of_the_workspace() {
    let inherits = |folder: &String| {
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
    let found: Vec<String> = crates
        .into_iter()
        .filter(|folder| !inherits(folder))
        .collect();
    assert_none("crates without `[lints] workspace = true`", &found);
}

#[test]
fn no_file_names_a_machine_or_a_registry() {
    // Concatenated here, so that this file does not contain them.
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
fn lock_files_exist_and_name_no_hosts() {
    let files = repository::files();
    assert!(
        files.iter().any(|file| file == "Cargo.lock"),
        "Cargo.lock is missing"
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

/// The tests of the configuration compare the guide with the code. This one compares the tests' example with the guide.
#[test]
fn example_and_guide_have_the_same_settings() {
    let example = repository::read("crates/keypool/src/config/tests/example.toml");
    let (known, documented) = (
        settings::of_configuration(&example),
        settings::of_guide(&repository::read("docs/configuration.md")),
    );
    let undocumented: Vec<String> = known.difference(&documented).cloned().collect();
    assert_none(
        "settings that docs/configuration.md does not list",
        &undocumented,
    );
    let unknown: Vec<String> = documented.difference(&known).cloned().collect();
    assert_none(
        "settings in docs/configuration.md that the tests' example.toml does not have",
        &unknown,
    );
}

#[test]
fn the_guide_lists_every_environment_variable() {
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
    let undocumented: Vec<String> = read
        .filter(|name| !guide.contains(&format!("`{name}`")))
        .collect();
    assert_none(
        "variables that docs/configuration.md does not name",
        &undocumented,
    );
}

#[test]
fn the_guide_lists_exactly_the_error_codes() {
    let mut codes = settings::codes(&repository::read("crates/gateway/src/error.rs"));
    for file in ["error.rs", "job_failure.rs"] {
        let file = format!("crates/core/src/store/{file}");
        codes.extend(settings::codes(&repository::read(&file)));
    }
    for file in repository::sources("crates/gateway") {
        if file.contains("/admin/") {
            codes.extend(problem_codes(&repository::read(&file)));
        }
    }
    assert!(
        codes.contains("no_key_available") && codes.contains("invalid_admin_token"),
        "{codes:?}"
    );
    let documented = settings::rows(&repository::read("docs/errors.md"));
    let undocumented: Vec<String> = codes.difference(&documented).cloned().collect();
    assert_none("codes that docs/errors.md does not list", &undocumented);
    let unknown: Vec<String> = documented.difference(&codes).cloned().collect();
    assert_none(
        "codes in docs/errors.md that the source does not have",
        &unknown,
    );
}

/// The codes in `Problem::new(StatusCode::…, "code", …)` and `Problem::conflict("code", …)`.
fn problem_codes(source: &str) -> BTreeSet<String> {
    let quoted = |arguments: &str| {
        let (code, _) = arguments.trim_start().strip_prefix('"')?.split_once('"')?;
        Some(code.to_owned())
    };
    let new = source.split("StatusCode::").skip(1);
    let new = new.filter_map(|call| quoted(call.split_once(',')?.1));
    let conflicts = source.split("conflict(").skip(1).filter_map(quoted);
    new.chain(conflicts).collect()
}

#[test]
fn every_link_between_documents_has_a_target() {
    let mut found = Vec::new();
    for file in repository::files()
        .iter()
        .filter(|file| file.ends_with(".md"))
    {
        for target in repository::read(file)
            .split("](")
            .skip(1)
            .filter_map(|link| link.split(')').next())
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
    assert_none("links without a target", &found);
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
