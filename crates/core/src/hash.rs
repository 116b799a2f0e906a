//! Fast hashes that are the same on every machine and after every restart. They are not cryptographic: a person who
//! chooses the input can choose the hash.

/// Odd constants without structure, from the fractional parts of the golden ratio and from wyhash.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
const MASK: u64 = 0xe703_7ed1_a0b4_28db;

/// Spreads numbers that differ little over all 64 bits: the finalizer of SplitMix64 (Steele, Lea, Flood, "Fast
/// Splittable Pseudorandom Number Generators", 2014).
pub fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_add(MULTIPLIER);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Hashes `bytes`, starting from `seed`: folded multiplication as in wyhash (Wang Yi, 2019), eight bytes a step. Both
/// the contents and the length count.
pub fn bytes(seed: u64, bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    let sum = words
        .iter()
        .fold(seed, |sum, word| fold(sum, u64::from_le_bytes(*word)));
    fold(fold(sum, u64::from_le_bytes(last)), bytes.len() as u64)
}

fn fold(sum: u64, word: u64) -> u64 {
    let product = u128::from(sum ^ word ^ MULTIPLIER) * u128::from(word.rotate_left(32) ^ MASK);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_differs_with_every_byte_and_with_the_length() {
        let text = [7u8; 40];
        let mut seen = std::collections::HashSet::new();
        for length in 0..=40 {
            assert!(seen.insert(bytes(1, &text[..length])), "{length} bytes");
        }
        for at in 0..40 {
            let mut changed = text;
            changed[at] = 8;
            assert!(seen.insert(bytes(1, &changed)), "byte {at}");
        }
        assert!(seen.insert(bytes(2, &text)));
    }
}
