//! What the store needs of a database: transactions, statements with parameters, and rows.
//!
//! Statements are the same text for every database. Where databases differ, it has a mark that each database replaces:
//! `{rows}` is the JSON array in parameter `$1` as rows with one column `value`, `{now}` the database's clock in
//! milliseconds, and `{limits}` ends a list of columns with what keeps a transaction from holding its locks for long.

use async_trait::async_trait;
use keypool_core::store::{StoreError, StoreErrorKind};

/// A database.
#[async_trait]
pub trait Database: Send + Sync + 'static {
    /// The changes of the schema, oldest first. Each is a script of statements.
    fn migrations(&self) -> &'static [&'static str];

    /// A statement that has a row if the schema was ever created.
    fn has_schema(&self) -> &'static str;

    /// Whether other nodes may use it.
    fn is_shared(&self) -> bool;

    /// Begins a transaction that only reads. It sees one state of the database.
    async fn read(&self) -> Result<Box<dyn Transaction>, StoreError>;

    /// Begins a transaction that may write.
    async fn write(&self) -> Result<Box<dyn Transaction>, StoreError>;

    /// Begins a transaction that changes the schema. Of several nodes, one gets it at a time.
    async fn migrate(&self) -> Result<Box<dyn Transaction>, StoreError>;

    /// Closes every connection, once its transaction has ended.
    async fn close(&self);
}

/// A transaction. Dropping it undoes it.
#[async_trait]
pub trait Transaction: Send {
    /// Executes a statement. Returns the number of rows that it changed.
    async fn execute(&mut self, sql: &'static str, params: Vec<Param>) -> Result<u64, StoreError>;

    /// Executes a statement. Returns its rows.
    async fn fetch(
        &mut self,
        sql: &'static str,
        params: Vec<Param>,
    ) -> Result<Vec<Row>, StoreError>;

    /// Executes several statements without parameters.
    async fn script(&mut self, sql: &'static str) -> Result<(), StoreError>;

    /// Makes all of it take effect.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// A parameter of a statement. Rows travel as JSON, so binary data in them is text.
#[derive(Debug)]
pub enum Param {
    /// A whole number; times are milliseconds since the epoch.
    Int(i64),
    /// Text, or none.
    Text(Option<String>),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl From<i64> for Param {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for Param {
    fn from(value: bool) -> Self {
        Self::Int(value.into())
    }
}

impl From<&str> for Param {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<String> for Param {
    fn from(value: String) -> Self {
        Self::Text(Some(value))
    }
}

impl From<Option<String>> for Param {
    fn from(value: Option<String>) -> Self {
        Self::Text(value)
    }
}

/// A list of parameters.
macro_rules! params {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::sql::Param::from($value)),*] };
}
pub(super) use params;

/// One value of a row.
#[derive(Debug)]
pub enum Cell {
    /// No value.
    Null,
    /// A whole number.
    Int(i64),
    /// A number.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// A row. Its values are taken in the order of the columns.
#[derive(Debug)]
pub struct Row(std::vec::IntoIter<Cell>);

impl Row {
    /// Made of its values.
    pub fn new(cells: Vec<Cell>) -> Self {
        Self(cells.into_iter())
    }

    /// The next value, which must be text.
    pub fn text(&mut self) -> Result<String, StoreError> {
        self.optional_text()?.ok_or_else(unexpected)
    }

    /// The next value, which must be text, if there is one.
    pub fn optional_text(&mut self) -> Result<Option<String>, StoreError> {
        match self.0.next() {
            Some(Cell::Text(text)) => Ok(Some(text)),
            Some(Cell::Null) => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// The next value, which must be a whole number.
    pub fn int(&mut self) -> Result<i64, StoreError> {
        self.optional_int()?.ok_or_else(unexpected)
    }

    /// The next value, which must be a whole number, if there is one.
    pub fn optional_int(&mut self) -> Result<Option<i64>, StoreError> {
        match self.0.next() {
            Some(Cell::Int(value)) => Ok(Some(value)),
            Some(Cell::Null) => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// The next value, which must be a whole number that is not negative.
    pub fn count(&mut self) -> Result<u64, StoreError> {
        u64::try_from(self.int()?).map_err(|_| unexpected())
    }

    /// The next value, which must be bytes.
    pub fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        match self.0.next() {
            Some(Cell::Bytes(bytes)) => Ok(bytes),
            _ => Err(unexpected()),
        }
    }

    /// The next value, which must be 0 or 1.
    pub fn flag(&mut self) -> Result<bool, StoreError> {
        Ok(self.int()? != 0)
    }

    /// The next value, which must be a number, if there is one.
    pub fn optional_real(&mut self) -> Result<Option<f64>, StoreError> {
        match self.0.next() {
            Some(Cell::Real(value)) => Ok(Some(value)),
            Some(Cell::Null) => Ok(None),
            _ => Err(unexpected()),
        }
    }
}

/// A value that is not what keypool writes there.
pub(super) fn unexpected() -> StoreError {
    StoreError::new(
        StoreErrorKind::Internal,
        "the database holds a value that keypool does not write there; restore a backup, or undo what was changed by hand",
    )
}
