//! The state of a key as bits of one word, and the sets of them that decisions ask for.

/// An operator switched it off.
pub(crate) const DISABLED: u32 = 1;
/// The provider does not accept it.
pub(crate) const INVALID: u32 = 1 << 1;
/// Its quota group has no quota or balance left.
pub(crate) const EXHAUSTED: u32 = 1 << 2;
/// Its breaker is open.
pub(crate) const EJECTED: u32 = 1 << 3;
/// Its breaker is half-open, and the probe is in flight.
pub(crate) const PROBING: u32 = 1 << 4;
/// It has as many calls in flight as it may have.
pub(crate) const FULL: u32 = 1 << 5;
/// Its breaker is half-open: the next call is the probe. Does not keep it from serving.
pub(crate) const HALF_OPEN: u32 = 1 << 6;
/// The provider has accepted it: a call went well. Says nothing about the calls to come.
pub(crate) const HAS_SERVED: u32 = 1 << 7;

/// It has limits of its own. Says nothing about whether there is room under them.
pub(crate) const LIMITED: u32 = 1 << 8;

/// It cannot serve, even if no other key can.
pub(crate) const UNUSABLE: u32 = DISABLED | INVALID | EXHAUSTED;
/// Its breaker keeps it from the usual load.
pub(crate) const EJECTED_OR_PROBING: u32 = EJECTED | PROBING;
/// Its breaker is open or half-open.
pub(crate) const BREAKER_NOT_CLOSED: u32 = EJECTED | PROBING | HALF_OPEN;
/// The flags that keep a key out of the available set. A key with none of them is available.
pub(crate) const BLOCKING: u32 = UNUSABLE | EJECTED_OR_PROBING | FULL;
