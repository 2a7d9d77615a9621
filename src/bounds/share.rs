//! On whose account something scarce goes: three groups, one in the other. A stranger's are the network he comes from and his address; a
//! workload's are its namespace, its account and its pod. So whoever has many addresses in one network, or makes many accounts in one namespace,
//! has one share all the same.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};

/// Groups in a [`Share`].
pub const DEPTH: usize = 3;

/// The groups that somebody is in, the widest first, as hashes: two that collide have one share together, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Share([u64; DEPTH]);

impl Share {
    /// The groups, the widest first.
    pub(super) fn path(&self) -> &[u64] {
        &self.0
    }

    /// A share of these groups, for tests.
    #[cfg(test)]
    pub(crate) const fn of(groups: [u64; DEPTH]) -> Self {
        Self(groups)
    }
}

/// Makes shares. It has keys of its own in each process, so that nobody can choose to be in another's group.
#[derive(Debug, Clone, Default)]
pub struct Shares(RandomState);

impl Shares {
    /// The share of an address: by itself, or within its /64 in IPv6, which one host commonly has to itself (RFC 6177 §2, RFC 8200).
    pub fn of_address(&self, address: IpAddr) -> Share {
        let address = address.to_canonical();
        let network = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        };
        let (network, address) = (self.0.hash_one(network), self.0.hash_one((network, address)));
        Share([network, address, address])
    }

    /// The share of somebody who is known by names, the widest first: a namespace, an account in it, a pod of that.
    pub fn of_names(&self, widest: &str, inner: &str, narrowest: Option<&str>) -> Share {
        Share([self.0.hash_one(widest), self.0.hash_one((widest, inner)), self.0.hash_one((widest, inner, narrowest))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_are_in_one_group() {
        let shares = Shares::default();
        let of = |text: &str| shares.of_address(text.parse().unwrap());
        assert_eq!(of("2001:db8::1").path()[0], of("2001:db8::ffff:2").path()[0]);
        assert_ne!(of("2001:db8::1").path()[1], of("2001:db8::ffff:2").path()[1]);
        assert_ne!(of("2001:db8::1").path()[0], of("2001:db8:0:1::1").path()[0]);
        assert_ne!(of("10.0.0.1").path()[0], of("10.0.0.2").path()[0]);
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"), "one host, whatever the socket calls it");
    }

    #[test]
    fn names_are_one_in_the_other() {
        let shares = Shares::default();
        let (one, two) = (shares.of_names("shop", "cart", Some("1")), shares.of_names("shop", "cart", Some("2")));
        assert_eq!(one.path()[..2], two.path()[..2]);
        assert_ne!(one, two);
        let till = shares.of_names("shop", "till", None);
        assert!(till.path()[0] == one.path()[0] && till.path()[1] != one.path()[1]);
        assert_ne!(shares.of_names("a", "bc", None).path()[1], shares.of_names("ab", "c", None).path()[1]);
    }
}
