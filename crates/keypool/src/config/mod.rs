//! Configuration: merges defaults, `keypool.toml`, environment and flags into validated `Settings`, or reports all mistakes.
//!
//! Only this module reads the environment and the file. It must never open a socket, generate a secret or know the gateway;
//! and the value of a key or token may leave it only inside a `Secret`.

mod admin;
mod base;
mod display;
mod dotenv;
mod environment;
mod errors;
mod files;
mod jobs;
mod keys;
mod limiter;
mod limits;
mod location;
mod lookalikes;
mod not_implemented;
mod pools;
mod problem;
mod proxy;
mod reachability;
mod redis_url;
mod report;
mod routes;
mod secrets;
mod server;
mod sources;
mod store;
mod text;
mod values;
mod vars;
mod virtual_keys;
mod walk;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use keypool_core::secret::Secret;
use keypool_gateway::settings::Settings;
use toml::de::DeTable;

use location::{Document, Location};
use problem::Problem;
use reachability::Reachability;
use report::Report;
use sources::Input;
use vars::Vars;
use walk::Table;

pub(crate) use errors::Errors;
pub(crate) use files::{Contents, SourceFile};
pub(crate) use sources::{Overrides, Sources};

/// A valid configuration.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// The settings.
    pub(crate) settings: Settings,
    /// Settings that have no effect or are probably not meant, one sentence each.
    pub(crate) warnings: Vec<String>,
    /// The configuration file and `.env`, existing or not. A change to one of them causes a reload.
    pub(crate) files: Vec<SourceFile>,
}

/// Reads, merges and validates all sources.
pub(crate) fn load(sources: &Sources) -> Result<Loaded, Errors> {
    let (vars, dotenv, mistakes) = Vars::read(&sources.dir, &sources.env);
    let input = Input::read(sources, &vars);
    let report = Report::new(&input.document, &vars);
    mistakes
        .into_iter()
        .chain(input.problem)
        .for_each(|problem| report.add(problem));
    let (root, syntax) = DeTable::parse_recoverable(if input.usable {
        input.document.text()
    } else {
        ""
    });
    syntax
        .iter()
        .for_each(|error| report.add(syntax_problem(&input.document, error)));
    let settings = read(Table::root(&report, root.get_ref()), sources);
    for name in vars.strays() {
        report.warn_stray_reference(&vars.at(name), name);
    }
    lookalikes::warn(&report);
    let (errors, warnings) = report.finish();
    if !errors.is_empty() {
        return Err(Errors(errors));
    }
    Ok(Loaded {
        settings,
        warnings,
        files: vec![input.file, dotenv],
    })
}

/// An environment variable, of the process or of `.env`, that is no setting: it tells a command what to do.
pub(crate) fn variable(sources: &Sources, name: &str) -> Option<Secret> {
    let (vars, _, _) = Vars::read(&sources.dir, &sources.env);
    vars.get(name).map(|value| Secret::new(value.trim()))
}

/// Whether a variable has its value from `.env` of the working directory.
pub(crate) fn is_from_dotenv(sources: &Sources, name: &str) -> bool {
    let (vars, _, _) = Vars::read(&sources.dir, &sources.env);
    matches!(vars.at(name), Location::DotEnv(..))
}

/// The master key in a variable that is no setting.
///
/// # Errors
/// A sentence that names the variable.
pub(crate) fn master_key_variable(sources: &Sources, name: &str) -> Result<Option<Secret>, String> {
    match variable(sources, name) {
        Some(key) if !store::is_long_enough(key.expose()) => {
            Err(format!("`{name}` {}", store::too_short()))
        }
        key => Ok(key),
    }
}

/// Reads the top level of the schema.
fn read(mut root: Table<'_>, sources: &Sources) -> Settings {
    let report = root.report();
    let (server, auth_at) = server::server(root.table("server"), report, &sources.overrides);
    let log = server::log(root.table("log"), report, &sources.overrides);
    let store = store::read(root.table("store"), report);
    let admin = admin::read(root.table("admin"), &store, report, &sources.dir);
    let limiter = limiter::read(root.table("limiter"), report);
    let jobs = jobs::read(root.table("jobs"));
    let files = jobs::files(root.table("files"));
    let proxies = proxy::environment(report);
    let file = pools::read(root.table("pools"), server.listen, &proxies);
    let environment = match sources.environment_pools {
        true => environment::pools(report, &file, server.listen, &proxies),
        false => Vec::new(),
    };
    let names: Vec<&str> = file
        .names
        .iter()
        .map(String::as_str)
        .chain(environment.iter().map(|pool| &*pool.name))
        .collect();
    let virtual_keys = virtual_keys::read(root.tables("virtual_keys"), &names);
    server::warn_exposure(report, &server, auth_at.as_ref(), &virtual_keys);
    let reachability = Reachability {
        pools: file.pools.iter().chain(&environment).collect(),
        auth: server.auth,
        virtual_keys: &virtual_keys,
    };
    let routes = routes::read(root.tables("routes"), &names, &reachability);
    not_implemented::metrics(root.table("metrics"));
    root.finish();
    let pools = file
        .pools
        .into_iter()
        .chain(environment)
        .map(Arc::new)
        .collect();
    Settings {
        server,
        log,
        admin,
        limiter,
        store: store.settings(&sources.dir),
        jobs,
        files,
        proxies,
        pools,
        virtual_keys,
        routes,
    }
}

/// An error of the TOML parser. Its messages say what it expected and never quote the file.
fn syntax_problem(document: &Document, error: &toml::de::Error) -> Problem {
    let span = error.span().unwrap_or_default();
    let at = Location::File(span.start);
    if error.message() != "duplicate key" {
        return Problem::syntax(&at, format!("not valid TOML: {}", error.message()));
    }
    let key = document.text().get(span).unwrap_or_default();
    let problem = Problem::new(&at, format!("{} is set twice", display::unknown_name(key)));
    match key {
        "keys" => problem.hint("a pool has either `keys = …` or `[[pools.<name>.keys]]`, not both"),
        _ => problem.hint("keep one of the two"),
    }
}
