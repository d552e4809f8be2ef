//! Where a history's chance comes from.

use std::ops::RangeInclusive;

/// `SplitMix64`: ten lines, so that a seed means the same history whatever version of a crate is installed.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// One of its own for a part of the world, so that what one part draws does not change another's.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.next() % (range.end() - range.start() + 1)
    }

    /// Between the two, each order of magnitude as often as the next: most are short, a few very long.
    pub fn magnitude(&mut self, range: RangeInclusive<u64>) -> u64 {
        let bits = |number: u64| u64::from(u64::BITS - number.leading_zeros());
        let top = self.within(bits(*range.start())..=bits(*range.end()));
        let highest = 1_u64.checked_shl(u32::try_from(top).unwrap()).unwrap_or(u64::MAX);
        self.within(*range.start()..=highest.clamp(*range.start(), *range.end()))
    }

    pub fn per_mille(&mut self, chance: u64) -> bool {
        self.within(1..=1_000) <= chance
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.within(0..=from.len() as u64 - 1)).unwrap()]
    }
}
