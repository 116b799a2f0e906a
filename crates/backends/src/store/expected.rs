//! What must be stored for a change to be made.

use keypool_core::store::{Expected, StoreError, StoreErrorKind};

use super::sql::Row;

/// The version in a row with nothing else, if there is one.
pub(super) fn version(row: Option<Row>) -> Result<Option<u64>, StoreError> {
    row.map(|mut row| row.count()).transpose()
}

/// Refuses a change of `what` unless what is stored of it is as expected. `may_create`: the change can be applied to what is
/// not stored.
pub(super) fn check(
    what: &str,
    expected: Expected,
    stored: Option<u64>,
    may_create: bool,
) -> Result<(), StoreError> {
    match (expected, stored) {
        (Expected::Any | Expected::Absent, None) if may_create => Ok(()),
        (Expected::Any | Expected::Present, Some(_)) => Ok(()),
        (Expected::Version(expected), Some(stored)) if expected == stored => Ok(()),
        (Expected::Version(expected), Some(stored)) => Err(StoreError::new(
            StoreErrorKind::VersionMismatch,
            format!(
                "{what} has version {stored} by now, not {expected}; read it again and repeat the change"
            ),
        )),
        (Expected::Absent, Some(_)) => Err(StoreError::new(
            StoreErrorKind::NameTaken,
            format!("{what} is stored already; choose another name, or change what is stored"),
        )),
        (_, None) => Err(StoreError::new(
            StoreErrorKind::Missing,
            format!("{what} is not stored; it may have been deleted"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_refused_unless_what_is_stored_is_as_expected() {
        use Expected::*;
        use StoreErrorKind::*;
        let outcomes = [
            (Any, None, None),
            (Any, Some(3), None),
            (Absent, None, None),
            (Absent, Some(3), Some(NameTaken)),
            (Present, None, Some(Missing)),
            (Present, Some(3), None),
            (Version(3), Some(3), None),
            (Version(2), Some(3), Some(VersionMismatch)),
            (Version(2), None, Some(Missing)),
        ];
        for (expected, stored, kind) in outcomes {
            let outcome = check("x", expected, stored, true);
            assert_eq!(
                outcome.err().map(|error| error.kind),
                kind,
                "{expected:?}, {stored:?}"
            );
        }
        for expected in [Any, Absent] {
            assert_eq!(check("x", expected, None, false).unwrap_err().kind, Missing);
        }
    }
}
