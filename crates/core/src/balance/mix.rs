//! Scattering numbers: conversations and groups over the ring, entries over a table.

/// SplitMix64's finalizer (Steele, Lea, Flood 2014): numbers that differ little come to lie far apart.
pub(super) fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
