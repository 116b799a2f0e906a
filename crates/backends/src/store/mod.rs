//! Where everything is stored that outlives the process: [`SqliteStore`] for one gateway, [`PostgresStore`] for several.
//!
//! Both are [`SqlStore`], which knows the statements; a database knows how to execute them. The number of statements does
//! not depend on the number of rows: rows travel as one JSON parameter. Only bodies of jobs are stored one by one. This module must never know the gateway's settings.

mod audit;
mod batch_store;
mod batches;
mod catalog;
mod change;
mod compact;
mod convert;
mod envelope;
mod expected;
mod files;
mod flush;
mod identity;
mod job_store;
mod jobs;
mod key_changes;
mod key_states;
mod objects;
mod postgres;
mod rotation;
mod schema;
mod sql;
mod sql_store;
mod sqlite;
mod transaction;
mod usage;
mod virtual_key_changes;
mod webhook_store;

pub use envelope::MasterKey;
pub use postgres::{Postgres, PostgresStore};
pub use sql_store::SqlStore;
pub use sqlite::{Sqlite, SqliteStore};
