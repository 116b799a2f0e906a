//! The limits of virtual keys and of upstream keys.

use std::time::Duration;

use keypool_core::limit::{Limits, OutputReservation};
use keypool_core::secret::Digest256;
use keypool_gateway::settings::{OnLimit, VirtualKeySettings};
use toml::de::DeValue;

use super::walk::Table;

/// What a virtual key says about its limits.
pub(super) struct CallerLimits {
    /// `rpm`, `input_tpm`, `output_tpm` and `max_concurrent`.
    pub(super) limits: Limits,
    /// `output_reservation`
    pub(super) output_reservation: OutputReservation,
    /// `on_limit`
    pub(super) on_limit: OnLimit,
    /// `limit_wait`
    pub(super) limit_wait: Duration,
}

/// Reads `rpm`, `input_tpm` and `output_tpm`.
pub(super) fn per_minute(table: &mut Table<'_>) -> Limits {
    Limits {
        requests: limit(table, "rpm"),
        input_tokens: limit(table, "input_tpm"),
        output_tokens: limit(table, "output_tpm"),
        concurrent: None,
    }
}

/// Reads the limits of a virtual key, and warns about settings that have no effect.
pub(super) fn of_caller(table: &mut Table<'_>) -> CallerLimits {
    let reservations = [OutputReservation::Learned, OutputReservation::MaxTokens]
        .map(|word| (word.as_str(), word));
    let actions = [("reject", OnLimit::Reject), ("wait", OnLimit::Wait)];
    let limits = Limits {
        concurrent: limit(table, "max_concurrent"),
        ..per_minute(table)
    };
    let defaults = VirtualKeySettings::new("", Digest256([0; 32]));
    let read = CallerLimits {
        limits,
        output_reservation: table
            .one_of("output_reservation", &reservations)
            .unwrap_or_default(),
        on_limit: table.one_of("on_limit", &actions).unwrap_or_default(),
        limit_wait: table.time("limit_wait").unwrap_or(defaults.limit_wait),
    };
    let is_changed = read.output_reservation != defaults.output_reservation;
    if is_changed && limits.output_tokens.is_none() {
        warn(table, "output_reservation", "`output_tpm`");
    }
    if read.on_limit == OnLimit::Wait && limits == Limits::default() {
        let any = "`rpm`, `input_tpm`, `output_tpm` or `max_concurrent`";
        warn(table, "on_limit", any);
    }
    if read.limit_wait != defaults.limit_wait && read.on_limit == OnLimit::Reject {
        warn(table, "limit_wait", "`on_limit = \"wait\"`");
    }
    read
}

/// Warns that the field `name` has no effect without `other`.
fn warn(table: &Table<'_>, name: &str, other: &str) {
    if let Some(at) = table.location_of(name) {
        let warning = format!("`virtual_keys.{name}` has no effect without {other}");
        table.report().warn_at(&at, &warning);
    }
}

/// A limit. Unset means no limit, so 0 and -1 are mistakes that say so.
fn limit(table: &mut Table<'_>, name: &'static str) -> Option<u32> {
    let node = table.take(name)?;
    let number = node.whole().and_then(|number| u32::try_from(number).ok());
    let number = number.filter(|number| *number > 0);
    if number.is_none() {
        let hint = match node.value() {
            DeValue::String(_) => "write the number without quotes",
            _ => "for no limit, remove the setting",
        };
        node.must_be_with_hint(&format!("a whole number from 1 to {}", u32::MAX), hint);
    }
    number
}
