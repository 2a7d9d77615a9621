//! RSA moduli that anybody can factor: with a small prime in them (CA/Browser Forum Baseline Requirements §6.1.6 want none below 752), or made by the
//! library of CVE-2017-15361 ("ROCA"; Nemec et al., CCS 2017), whose primes are powers of 65537 modulo every small prime, and so are their products.

use std::sync::LazyLock;

/// Small primes are below this.
const SMALL: u32 = 752;
/// The fingerprint is looked for modulo the primes up to this: one sound key in a hundred million has it by chance.
const FINGERPRINTED: u32 = 167;
/// The public exponent, of which those primes are powers.
const GENERATOR: u32 = 65_537;

/// Why a modulus is as good as public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weakness {
    /// A prime below 752 divides it.
    SmallFactor,
    /// It has the fingerprint of CVE-2017-15361.
    Roca,
}

struct Prime {
    prime: u32,
    /// Which remainders are powers of 65537; nothing where the fingerprint isn't looked for.
    powers: Option<Vec<bool>>,
}

/// Primes whose product fits 32 bits, so that one pass over a modulus is for several.
struct Batch {
    product: u32,
    primes: Vec<Prime>,
}

static BATCHES: LazyLock<Vec<Batch>> = LazyLock::new(|| {
    let mut batches: Vec<Batch> = Vec::new();
    for prime in (3..SMALL).filter(|number| (2..*number).take_while(|divisor| divisor * divisor <= *number).all(|divisor| number % divisor != 0)) {
        let powers = (prime <= FINGERPRINTED).then(|| powers(prime));
        let entry = Prime { prime, powers };
        match batches.last_mut().and_then(|batch| Some((batch.product.checked_mul(prime)?, batch))) {
            Some((product, batch)) => {
                batch.product = product;
                batch.primes.push(entry);
            }
            None => batches.push(Batch { product: prime, primes: vec![entry] }),
        }
    }
    batches
});

fn powers(prime: u32) -> Vec<bool> {
    let mut powers = vec![false; prime as usize];
    let mut power = 1;
    while let Some(seen) = powers.get_mut(power as usize).filter(|seen| !**seen) {
        *seen = true;
        power = power * (GENERATOR % prime) % prime;
    }
    powers
}

/// What is wrong with a modulus, big-endian, if anything is.
pub(super) fn weakness(modulus: &[u8]) -> Option<Weakness> {
    let mut is_fingerprinted = true;
    for Batch { product, primes } in BATCHES.iter() {
        let remainder = modulus.rchunks(4).rev().fold(0_u64, |remainder, word| {
            let word = word.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
            // Below 2³² each, so the sum is below 2⁶⁴; the first word may be shorter, before which there is nothing.
            (remainder << 32 | word) % u64::from(*product)
        });
        for Prime { prime, powers } in primes {
            let remainder = remainder % u64::from(*prime);
            if remainder == 0 {
                return Some(Weakness::SmallFactor);
            }
            let is_power = |powers: &Vec<bool>| usize::try_from(remainder).ok().and_then(|at| powers.get(at)).is_some_and(|power| *power);
            is_fingerprinted &= powers.as_ref().is_none_or(is_power);
        }
    }
    is_fingerprinted.then_some(Weakness::Roca)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 65537 to this power, which is one of its powers modulo every prime: 16 bits for each, and one.
    fn power(exponent: usize) -> Vec<u8> {
        (0..exponent).fold(vec![1], |number, _| times(&number, GENERATOR))
    }

    fn times(number: &[u8], factor: u32) -> Vec<u8> {
        let mut product = Vec::new();
        let mut carry = 0_u64;
        for byte in number.iter().rev() {
            carry += u64::from(*byte) * u64::from(factor);
            product.push((carry & 255) as u8);
            carry >>= 8;
        }
        while carry > 0 {
            product.push((carry & 255) as u8);
            carry >>= 8;
        }
        product.reverse();
        product
    }

    #[test]
    fn powers_of_the_generator_have_the_fingerprint() {
        for exponent in [128, 129, 200, 255] {
            let modulus = power(exponent);
            assert_eq!(weakness(&modulus), Some(Weakness::Roca), "{exponent}");
            // 757 is the next prime, and no power of 65537 modulo one of the small ones.
            assert_eq!(weakness(&times(&modulus, 757)), None, "{exponent}");
        }
    }

    #[test]
    fn each_small_prime_is_found() {
        let sound = times(&power(128), 757);
        let primes: Vec<_> = BATCHES.iter().flat_map(|batch| &batch.primes).map(|prime| prime.prime).collect();
        assert_eq!((primes.len(), primes.first(), primes.last()), (132, Some(&3), Some(&751)));
        for prime in primes {
            assert_eq!(weakness(&times(&sound, prime)), Some(Weakness::SmallFactor), "{prime}");
        }
    }
}
