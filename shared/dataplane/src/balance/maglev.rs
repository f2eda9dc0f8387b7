//! `maglev`: the client decides. A key of its address picks a slot of a table, and so the same member on
//! every node and after every restart.
//!
//! The table knows nothing of health: when a slot's owner is out, its keys alone go on to another member,
//! and come back when it does.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use super::maglev_table::{Table, Tables};
use super::{Choice, Policy};
use crate::hash::{fold, hash};
use crate::pool::Member;
use crate::snapshot::{self, KeyKind};

/// Further slots that a key tries while their owners are out.
const SECOND_CHOICES: u64 = 8;
const KEY_SEED: u64 = 4;

pub(super) struct Maglev {
    key: Key,
    /// See [`Bound`]; 0 = none.
    max_load_percent: u32,
    table: Rc<Table>,
    /// Position in the table → index in the pool.
    indices: Vec<usize>,
    /// By index in the pool: a hash of the identity.
    identities: Vec<u64>,
}

impl Maglev {
    pub(super) fn new(settings: &snapshot::Maglev, members: &[Member], tables: &Tables) -> Self {
        let table = tables.obtain(members);
        let by_id: rustc_hash::FxHashMap<&str, usize> =
            members.iter().enumerate().map(|(index, member)| (member.endpoint.id.as_str(), index)).collect();
        let indices = table.identities().map(|id| by_id[id]).collect();
        Self {
            key: Key::new(settings),
            max_load_percent: settings.max_load_percent,
            table,
            indices,
            identities: members.iter().map(|member| hash(member.endpoint.id.as_bytes(), KEY_SEED)).collect(),
        }
    }

    fn choose(&self, members: &[Member], usable: &dyn Fn(usize) -> bool, key: u64) -> Option<usize> {
        let mut slot = key;
        for _ in 0..=SECOND_CHOICES {
            let index = self.indices[self.table.owner(slot)?];
            if usable(index) {
                return Some(index);
            }
            slot = fold(slot, key);
        }
        self.rendezvous(members, usable, key)
    }

    /// The usable member that this key likes best (weighted rendezvous hashing): O(n), for when most are out.
    fn rendezvous(&self, members: &[Member], usable: &dyn Fn(usize) -> bool, key: u64) -> Option<usize> {
        let score = |index: usize| {
            // In (0, 1), never 0: the logarithm is finite and below 0.
            let toss = ((fold(self.identities[index], key) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            f64::from(members[index].weight) / -toss.ln()
        };
        let fit = self.indices.iter().copied().filter(|&index| usable(index));
        fit.map(|index| (score(index), index)).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, index)| index)
    }
}

impl Policy for Maglev {
    /// O(1) while most members are usable; O(n) with bounded load.
    fn pick(&self, members: &[Member], usable: &dyn Fn(usize) -> bool, choice: &Choice<'_>) -> Option<usize> {
        let key = self.key.of(choice.client);
        if self.max_load_percent == 0 {
            return self.choose(members, usable, key);
        }
        let bound = Bound::now(self.max_load_percent, members, usable);
        self.choose(members, &|index| usable(index) && bound.has_room(&members[index]), key)
    }
}

/// What of a client's address makes its key.
struct Key {
    kind: KeyKind,
    ipv4_mask: u32,
    ipv6_mask: u128,
}

impl Key {
    fn new(settings: &snapshot::Maglev) -> Self {
        Self {
            kind: settings.key,
            ipv4_mask: !u32::MAX.checked_shr(settings.ipv4_prefix).unwrap_or(0),
            ipv6_mask: !u128::MAX.checked_shr(settings.ipv6_prefix).unwrap_or(0),
        }
    }

    fn of(&self, client: SocketAddr) -> u64 {
        let source = match client.ip() {
            IpAddr::V4(address) => fold(KEY_SEED, u64::from(u32::from(address) & self.ipv4_mask)),
            IpAddr::V6(address) => {
                let bits = u128::from(address) & self.ipv6_mask;
                fold(fold(KEY_SEED + 1, (bits >> 64) as u64), bits as u64)
            }
        };
        match self.kind {
            KeyKind::Source => source,
            KeyKind::SourcePort => fold(source, u64::from(client.port())),
        }
    }
}

/// Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2018): no member takes more
/// than its fair share of what is in flight, times a factor. Some member always has room, for the bounds
/// add up to more than there is.
struct Bound {
    percent: u64,
    /// In flight on all usable members, with the one to come.
    in_flight: u64,
    weight: u64,
}

impl Bound {
    fn now(percent: u32, members: &[Member], usable: &dyn Fn(usize) -> bool) -> Self {
        let mut bound = Self { percent: u64::from(percent), in_flight: 1, weight: 0 };
        for (_, member) in members.iter().enumerate().filter(|(index, _)| usable(*index)) {
            if member.weight > 0 {
                bound.in_flight += u64::from(member.endpoint.in_flight.get());
                bound.weight += u64::from(member.weight);
            }
        }
        bound
    }

    fn has_room(&self, member: &Member) -> bool {
        let share = self.in_flight * u64::from(member.weight) * self.percent;
        u64::from(member.endpoint.in_flight.get()) < share.div_ceil(100 * self.weight.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Random;
    use super::super::testing::{client, members, shares, weight_error};
    use super::*;
    use proptest::prelude::*;

    const PORTS: snapshot::Maglev =
        snapshot::Maglev { key: KeyKind::SourcePort, ipv4_prefix: 32, ipv6_prefix: 128, max_load_percent: 0 };

    fn maglev(settings: &snapshot::Maglev, members: &[Member]) -> Maglev {
        Maglev::new(settings, members, &Tables::default())
    }

    fn chosen(policy: &Maglev, members: &[Member], usable: &dyn Fn(usize) -> bool, number: u32) -> Option<usize> {
        let random = Random::seeded(0);
        policy.pick(members, usable, &Choice { random: &random, client: client(number) })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn keys_follow_the_weights(weights in prop::collection::vec(0u32..9, 1..12)) {
            prop_assume!(weights.iter().any(|&weight| weight > 0));
            let members = members(&weights);
            let counts = shares(&maglev(&PORTS, &members), &members, &|_| true, 20_000);
            prop_assert!(weight_error(&counts, &weights) < 0.02, "{counts:?} for {weights:?}");
            prop_assert!(counts.iter().zip(&weights).all(|(&count, &weight)| weight > 0 || count == 0));
        }

        #[test]
        fn only_the_keys_of_those_that_are_out_move_and_evenly(
            weights in prop::collection::vec(0u32..5, 4..40),
            out in prop::collection::vec(any::<bool>(), 40),
        ) {
            let members = members(&weights);
            let policy = maglev(&PORTS, &members);
            let left: Vec<u32> = weights.iter().zip(&out).map(|(&w, &out)| if out { 0 } else { w }).collect();
            prop_assume!(left.iter().any(|&weight| weight > 0));
            let mut counts = vec![0; members.len()];
            for number in 0..10_000 {
                let home = chosen(&policy, &members, &|_| true, number).expect("all are usable");
                let now = chosen(&policy, &members, &|index| !out[index], number).expect("some are usable");
                prop_assert!(!out[now] && weights[now] > 0);
                prop_assert!(out[home] || home == now, "a key of a usable member moved");
                counts[now] += 1;
            }
            prop_assert!(weight_error(&counts, &left) < 0.03, "{counts:?} for {left:?}");
        }

        #[test]
        fn no_member_exceeds_its_bound(
            weights in prop::collection::vec(1u32..5, 2..10),
            percent in 101u32..200,
            clients in prop::collection::vec(0u32..20, 1..300),
        ) {
            let members = members(&weights);
            let policy = maglev(&snapshot::Maglev { max_load_percent: percent, ..PORTS }, &members);
            let total = f64::from(weights.iter().sum::<u32>());
            let mut held = Vec::new();
            for number in clients {
                let index = chosen(&policy, &members, &|_| true, number).expect("some member always has room");
                held.push(members[index].endpoint.enter());
                let load = members[index].endpoint.in_flight.get();
                let fair = held.len() as f64 * f64::from(weights[index]) / total;
                prop_assert!(f64::from(load) <= (fair * f64::from(percent) / 100.0).ceil() + 1e-9);
            }
        }
    }

    #[test]
    fn with_one_of_many_left_it_gets_all_and_with_none_nobody_does() {
        let members = members(&[1; 50]);
        let policy = maglev(&PORTS, &members);
        assert!((0..500).all(|number| chosen(&policy, &members, &|index| index == 33, number) == Some(33)));
        assert_eq!(chosen(&policy, &members, &|_| false, 1), None);
        assert_eq!(chosen(&maglev(&PORTS, &[]), &[], &|_| true, 1), None);
    }

    #[test]
    fn with_most_out_the_rest_share_evenly() {
        let members = members(&[1; 200]);
        let counts = shares(&maglev(&PORTS, &members), &members, &|index| index % 20 == 3, 20_000);
        let few: Vec<_> = counts.iter().copied().filter(|&count| count > 0).collect();
        assert!(few.len() == 10 && few.iter().all(|count| (1800..2200).contains(count)), "{few:?}");
    }

    #[test]
    fn the_key_is_the_prefix_with_or_without_the_port() {
        let of = |settings: &snapshot::Maglev, client: &str| Key::new(settings).of(client.parse().expect("valid"));
        let prefix = snapshot::Maglev { key: KeyKind::Source, ipv4_prefix: 24, ipv6_prefix: 56, ..PORTS };
        assert_eq!(of(&prefix, "10.0.0.1:5"), of(&prefix, "10.0.0.255:6"));
        assert_ne!(of(&prefix, "10.0.0.1:5"), of(&prefix, "10.0.1.1:5"));
        assert_eq!(of(&prefix, "[2001:db8:0:ff::1]:5"), of(&prefix, "[2001:db8:0:1::]:6"));
        assert_ne!(of(&prefix, "[2001:db8:0:ff::1]:5"), of(&prefix, "[2001:db8:0:100::1]:5"));
        assert_ne!(of(&PORTS, "10.0.0.1:5"), of(&PORTS, "10.0.0.1:6"));
        assert_ne!(of(&PORTS, "10.0.0.1:5"), of(&PORTS, "10.0.0.2:5"));
        let everyone = snapshot::Maglev { ipv4_prefix: 0, ipv6_prefix: 0, ..prefix };
        assert_eq!(of(&everyone, "10.0.0.1:5"), of(&everyone, "192.0.2.1:5"));
    }
}
