//! Data of the core as values of a database, and back.

use std::time::{Duration, SystemTime};

use keypool_core::secret::Digest256;
use keypool_core::store::StoreError;

use super::sql::{Row, unexpected};

/// Milliseconds since the epoch. Times before it are the epoch.
pub(super) fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

/// The time of milliseconds since the epoch.
pub(super) fn time(millis: i64) -> SystemTime {
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    SystemTime::UNIX_EPOCH + since
}

/// The next value of a row, a time.
pub(super) fn next_time(row: &mut Row) -> Result<SystemTime, StoreError> {
    Ok(time(row.int()?))
}

/// The next value of a row, a hash.
pub(super) fn next_hash(row: &mut Row) -> Result<Digest256, StoreError> {
    Digest256::from_hex(&row.text()?).ok_or_else(unexpected)
}

/// A count as databases keep it.
pub(super) fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A hash as 64 hexadecimal digits.
pub(super) fn hex(digest: &Digest256) -> String {
    hex_bytes(&digest.0)
}

/// Bytes as hexadecimal digits.
pub(super) fn hex_bytes(bytes: &[u8]) -> String {
    let digits = b"0123456789abcdef";
    let pairs = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    pairs
        .map(|digit| char::from(digits[usize::from(digit)]))
        .collect()
}

/// Text that callers may have chosen, as databases accept it: PostgreSQL has no text with a NUL.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
