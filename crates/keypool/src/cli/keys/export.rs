//! `keypool keys export`.

use std::process::ExitCode;

use clap::Args;
use keypool_core::store::StoredKey;
use keypool_gateway::settings::Settings;
use serde_json::{Map, Value};

use super::super::client::Client;
use super::super::format::Format;
use super::super::server::ServerArgs;
use super::super::table::count;
use super::super::{Failure, print, print_error, runtime};
use crate::{config, store};

/// The settings of a key, in the order of the columns.
const SETTINGS: [&str; 9] = [
    "base_url",
    "proxy",
    "model",
    "group",
    "weight",
    "max_concurrent",
    "rpm",
    "input_tpm",
    "output_tpm",
];

#[derive(Args)]
pub(super) struct ExportArgs {
    /// Only the keys of this pool.
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// Format of the list [default: csv, or json with --json].
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Print the secrets of the pool's stored keys.
    #[arg(long, requires = "pool")]
    secrets: bool,
}

type Object = Map<String, Value>;

pub(super) fn run(args: &ExportArgs, server: &ServerArgs) -> Result<ExitCode, Failure> {
    let format = args.format.unwrap_or(match server.json {
        true => Format::Json,
        false => Format::Csv,
    });
    let text = match (&args.pool, args.secrets) {
        (Some(pool), true) => {
            let keys = with_secrets(pool, server)?;
            let columns: Vec<&str> = ["key", "name"].into_iter().chain(SETTINGS).collect();
            write(&keys, format, &columns, &["key"])?
        }
        (pool, _) => {
            let client = Client::new(server)?;
            let keys = super::keys(&client, pool.as_deref())?;
            let keys = keys.into_iter().map(without_secrets).collect::<Vec<_>>();
            let columns = ["pool", "name", "hint", "source", "state"]
                .into_iter()
                .chain(SETTINGS);
            write(
                &keys,
                format,
                &columns.collect::<Vec<_>>(),
                &["pool", "name", "hint"],
            )?
        }
    };
    if !text.is_empty() {
        print(text.trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A key as the server shows it. What may be shown of the secret has a name that no import takes for the secret.
fn without_secrets(key: Value) -> Object {
    let Value::Object(mut key) = key else {
        return Object::new();
    };
    if let Some(hint) = key.remove("key") {
        key.insert("hint".to_owned(), hint);
    }
    key
}

/// The stored keys of a pool, as an import reads them.
fn with_secrets(pool: &str, server: &ServerArgs) -> Result<Vec<Object>, Failure> {
    if server.names_a_server()? {
        return Err(Failure::Other(
            "--secrets reads the store of the configuration here and asks no server: leave out --server, unset KEYPOOL_SERVER, and run it where that server runs"
                .to_owned(),
        ));
    }
    let settings = config::load(&server.sources()?)?.settings;
    let catalog = runtime()?.block_on(async {
        let store = store::open_for_reading(&settings.store).await?;
        store.catalog().await.map_err(|error| error.to_string())
    });
    let catalog = catalog.map_err(|error| Failure::because("cannot read the store", error))?;
    let keys = catalog.keys.iter().filter(|key| &*key.pool == pool);
    let keys = keys.map(object).collect::<Result<Vec<_>, _>>()?;
    let (declared, source) = declared(&settings, pool);
    if declared > 0 {
        let are = if declared == 1 { "is" } else { "are" };
        print_error(&format!(
            "{} of pool {pool} {are} declared in {source}, not stored, and not exported",
            count(declared, "key")
        ));
    } else if keys.is_empty() {
        return Err(Failure::Other(format!(
            "there is no key of a pool \"{pool}\" in the store"
        )));
    }
    Ok(keys)
}

/// The number of keys of a pool that are declared, and where.
fn declared<'s>(settings: &'s Settings, pool: &str) -> (usize, &'s str) {
    let mut pools = settings.pools.iter();
    let pool = pools.find(|one| &*one.name == pool);
    pool.map_or((0, ""), |pool| (pool.keys.len(), &pool.source))
}

fn object(key: &StoredKey) -> Result<Object, Failure> {
    let settings = serde_json::from_str(&key.settings);
    let mut object: Object = settings.map_err(|error| {
        Failure::because(format!("cannot read the settings of {}", key.name), error)
    })?;
    object.insert("key".to_owned(), key.secret.expose().into());
    object.insert("name".to_owned(), (*key.name).into());
    Ok(object)
}

/// The keys in a format. `in_text`: the fields that a line of text has.
fn write(
    keys: &[Object],
    format: Format,
    columns: &[&str],
    in_text: &[&str],
) -> Result<String, Failure> {
    let cell = |key: &Object, column: &str| match key.get(column) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let cells = |key: &Object, columns: &[&str]| {
        columns
            .iter()
            .map(|column| cell(key, column))
            .collect::<Vec<_>>()
    };
    Ok(match format {
        Format::Json => format!("{:#}", Value::from_iter(keys.iter().cloned())),
        Format::Text => keys
            .iter()
            .map(|key| cells(key, in_text).join(" ") + "\n")
            .collect(),
        Format::Csv => {
            let failed = |error: csv::Error| Failure::because("cannot write CSV", error);
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(columns).map_err(failed)?;
            for key in keys {
                writer.write_record(cells(key, columns)).map_err(failed)?;
            }
            let bytes = writer.into_inner().unwrap_or_default();
            String::from_utf8(bytes).unwrap_or_default()
        }
    })
}
