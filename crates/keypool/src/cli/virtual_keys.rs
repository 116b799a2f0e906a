//! `keypool virtual-keys`: what callers present to a running server.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{Client, path};
use super::server::ServerArgs;
use super::table::{or_dash, table};
use super::{Failure, print, print_error, print_once, prompt};

#[derive(Args)]
pub(super) struct VirtualKeysArgs {
    #[command(subcommand)]
    verb: VirtualKeyVerb,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand)]
enum VirtualKeyVerb {
    /// Create a virtual key, and print its secret.
    ///
    /// The secret is shown this one time. Standard output has the secret and nothing else, so a script can read it.
    #[command(
        after_help = "Examples:\n  keypool virtual-keys create team-a --models 'gpt-*' --rpm 60\n  SECRET=$(keypool virtual-keys create team-a)"
    )]
    Create(CreateArgs),
    /// List virtual keys with their limits.
    #[command(after_help = "Example:\n  keypool virtual-keys list --json")]
    List,
    /// Give a virtual key a new secret, and print it. The old one is accepted for some time.
    #[command(after_help = "Example:\n  keypool virtual-keys rotate team-a --grace 1h")]
    Rotate(RotateArgs),
    /// Delete a virtual key. Calls in flight go on.
    #[command(after_help = "Example:\n  keypool virtual-keys revoke team-a --yes")]
    Revoke(RevokeArgs),
}

#[derive(Args)]
struct CreateArgs {
    #[command(flatten)]
    settings: Settings,
    /// Read the secret from standard input, or from a prompt, instead of making one up.
    #[arg(long)]
    key_stdin: bool,
}

/// The settings of a virtual key, with the names that the admin API has for them.
#[derive(Args, Serialize)]
struct Settings {
    /// Name of the virtual key.
    #[arg(value_name = "NAME")]
    name: String,
    /// Names and patterns of the models that it may call, separated by commas [default: all].
    #[arg(long, value_name = "MODELS", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    models: Option<Vec<String>>,
    /// Names and patterns of the pools that it may call, separated by commas [default: all].
    #[arg(long, value_name = "POOLS", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pools: Option<Vec<String>>,
    /// Maximum number of requests in every 60 seconds.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    rpm: Option<u32>,
    /// Maximum number of input tokens in every 60 seconds.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    input_tpm: Option<u32>,
    /// Maximum number of output tokens in every 60 seconds.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tpm: Option<u32>,
    /// Maximum number of calls in flight.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_concurrent: Option<u32>,
    /// When it expires, such as 2027-01-31T00:00:00Z [default: never].
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    /// Let it use native paths too.
    #[arg(long)]
    native: bool,
}

#[derive(Args)]
struct RotateArgs {
    /// Name of the virtual key.
    #[arg(value_name = "NAME")]
    name: String,
    /// How long the old secret is still accepted, such as 1h; 0s: not at all.
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    grace: String,
    /// Read the new secret from standard input, or from a prompt, instead of making one up.
    #[arg(long)]
    key_stdin: bool,
}

#[derive(Args)]
struct RevokeArgs {
    /// Name of the virtual key.
    #[arg(value_name = "NAME")]
    name: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// What the text shows of a virtual key.
#[derive(Deserialize)]
struct VirtualKey {
    name: String,
    /// The secret if it was made up just now, else what may be shown of it.
    key: Option<String>,
    models: Option<Vec<String>>,
    pools: Option<Vec<String>>,
    rpm: Option<u32>,
    input_tpm: Option<u32>,
    output_tpm: Option<u32>,
    max_concurrent: Option<u32>,
    expires: Option<Timestamp>,
    disabled: Option<bool>,
    old_key_accepted_until: Option<Timestamp>,
    source: String,
}

const COLUMNS: [&str; 10] = [
    "NAME",
    "KEY",
    "MODELS",
    "POOLS",
    "RPM",
    "INPUT TPM",
    "OUTPUT TPM",
    "CONCURRENT",
    "EXPIRES",
    "SOURCE",
];

/// Runs a verb.
pub(super) fn run(args: &VirtualKeysArgs) -> Result<ExitCode, Failure> {
    let client = Client::new(&args.server)?;
    match &args.verb {
        VirtualKeyVerb::Create(args) => create(args, &client),
        VirtualKeyVerb::List => list(&client),
        VirtualKeyVerb::Rotate(args) => rotate(args, &client),
        VirtualKeyVerb::Revoke(args) => revoke(args, &client),
    }
}

fn create(args: &CreateArgs, client: &Client) -> Result<ExitCode, Failure> {
    let mut body = serde_json::to_value(&args.settings)
        .map_err(|error| Failure::because("cannot write the settings", error))?;
    give_secret(&mut body, args.key_stdin, &args.settings.name)?;
    let answer = client.post(&path(&["virtual-keys"]), &body)?;
    let what = format!("created the virtual key {}", args.settings.name);
    show_secret(&answer, &what, args.key_stdin, client)
}

fn rotate(args: &RotateArgs, client: &Client) -> Result<ExitCode, Failure> {
    let mut body = json!({ "grace": args.grace });
    give_secret(&mut body, args.key_stdin, &args.name)?;
    let answer = client.post(&path(&["virtual-keys", &args.name, "rotate"]), &body)?;
    let key: VirtualKey = client.read(&answer)?;
    let old = match key.old_key_accepted_until {
        Some(until) => format!("the old secret is accepted until {until:.0}"),
        None => "the old secret is no longer accepted".to_owned(),
    };
    let what = format!("{} has a new secret; {old}", args.name);
    show_secret(&answer, &what, args.key_stdin, client)
}

/// Puts the secret that the operator chose into a body.
fn give_secret(body: &mut Value, is_given: bool, name: &str) -> Result<(), Failure> {
    if is_given {
        let secret = prompt::secret(&format!("Secret of the virtual key {name}"))?;
        body["key"] = Value::from(secret.expose());
    }
    Ok(())
}

/// Prints a secret that was made up to standard output, and all the rest to standard error.
fn show_secret(
    answer: &Value,
    what: &str,
    is_given: bool,
    client: &Client,
) -> Result<ExitCode, Failure> {
    let key: VirtualKey = client.read(answer)?;
    let rotate = format!(
        "rotate it with `keypool virtual-keys rotate {}`, which shows a new secret",
        key.name
    );
    let print_secret = |text: &str| match is_given {
        true => print(text),
        false => print_once(text, &rotate),
    };
    if client.json {
        print_secret(&format!("{answer:#}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    match key.key.filter(|_| !is_given) {
        Some(secret) => {
            print_error(&format!(
                "{what}; this is the only time that its secret is shown:"
            ));
            print_secret(&secret)?;
        }
        None => print_error(what),
    }
    Ok(ExitCode::SUCCESS)
}

fn list(client: &Client) -> Result<ExitCode, Failure> {
    let items = client.list(&path(&["virtual-keys"]))?;
    if client.json {
        print(&format!("{:#}", json!({ "items": items, "next": null })))?;
        return Ok(ExitCode::SUCCESS);
    }
    let keys: Vec<VirtualKey> = client.read_all(&items)?;
    print(&match keys.is_empty() {
        true => "There are no virtual keys: `keypool virtual-keys create` creates one.".to_owned(),
        false => table(&COLUMNS, keys.into_iter().map(row)),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn row(key: VirtualKey) -> Vec<String> {
    let names = |names: Option<Vec<String>>| or_dash(names.map(|names| names.join(", ")));
    let name = match key.disabled {
        Some(true) => format!("{} (disabled)", key.name),
        _ => key.name,
    };
    vec![
        name,
        or_dash(key.key),
        names(key.models),
        names(key.pools),
        or_dash(key.rpm),
        or_dash(key.input_tpm),
        or_dash(key.output_tpm),
        or_dash(key.max_concurrent),
        or_dash(key.expires),
        key.source,
    ]
}

fn revoke(args: &RevokeArgs, client: &Client) -> Result<ExitCode, Failure> {
    let name = &args.name;
    let question = format!("Delete the virtual key {name}, so that its callers are refused?");
    prompt::confirm(&question, args.yes)?;
    client.delete(&path(&["virtual-keys", name]))?;
    print(&match client.json {
        true => format!("{:#}", json!({ "name": name })),
        false => format!("Revoked {name}."),
    })?;
    Ok(ExitCode::SUCCESS)
}
