//! The lookup table of Maglev (Eisenbud et al., NSDI 2016, §3.4) with Katran's second way of weighting.
//!
//! Every member has its own order of all slots: an offset and a skip from hashes of its identity. In turns
//! they take their next free slot, a member of full weight in every round, a lighter one in as many of
//! them as its weight says. A member that leaves frees its slots; few others change hands.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use rustc_hash::FxHashMap;

use crate::hash::{fold, hash};
use crate::pool::Member;

/// Slots; a prime, so that every skip reaches all of them. A hundred a member keeps shares within 1 %.
pub(super) const SLOTS: u64 = 65_537;

const FREE: u32 = u32::MAX;
const OFFSET_SEED: u64 = 1;
const SKIP_SEED: u64 = 2;
const FINGERPRINT_SEED: u64 = 3;

/// Who owns each slot, for one set of identities and weights.
pub(super) struct Table {
    /// Identity and weight in the order of the identities, those of weight 0 left out.
    members: Vec<(String, u32)>,
    /// Positions in `members`; empty when there are none.
    slots: Box<[u32]>,
}

impl Table {
    fn build(members: Vec<(String, u32)>) -> Self {
        let slots = fill(&members);
        Self { members, slots }
    }

    /// The position of the member that owns the slot of `hash`, in the order of identities.
    pub(super) fn owner(&self, hash: u64) -> Option<usize> {
        self.slots.get((hash % SLOTS) as usize).map(|&position| position as usize)
    }

    pub(super) fn identities(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(id, _)| id.as_str())
    }
}

/// Every slot's owner. O(M log M) for M slots; u64 throughout, as offset + turn × skip outgrows u32.
fn fill(members: &[(String, u32)]) -> Box<[u32]> {
    let Some(heaviest) = members.iter().map(|(_, weight)| u64::from(*weight)).max() else { return Box::default() };
    let mut slots = vec![FREE; SLOTS as usize];
    let mut left = SLOTS;
    // Where each member looks next, how far it goes from there, and the weight that it has saved up.
    let mut turns: Vec<(u64, u64, u64)> = members
        .iter()
        .map(|(id, _)| {
            let id = id.as_bytes();
            (hash(id, OFFSET_SEED) % SLOTS, hash(id, SKIP_SEED) % (SLOTS - 1) + 1, 0)
        })
        .collect();
    loop {
        for (position, ((next, skip, saved), (_, weight))) in turns.iter_mut().zip(members).enumerate() {
            *saved += u64::from(*weight);
            if *saved < heaviest {
                continue;
            }
            *saved -= heaviest;
            while slots[*next as usize] != FREE {
                *next = (*next + *skip) % SLOTS;
            }
            slots[*next as usize] = position as u32;
            left -= 1;
            if left == 0 {
                return slots.into_boxed_slice();
            }
        }
    }
}

/// The tables in use, kept over reloads: one is built only when members or weights are others.
#[derive(Default)]
pub struct Tables(RefCell<FxHashMap<u64, Weak<Table>>>);

impl Tables {
    /// The table of these members, whatever their order.
    pub(super) fn obtain(&self, members: &[Member]) -> Rc<Table> {
        let weighted = members.iter().filter(|member| member.weight > 0);
        let mut wanted: Vec<_> = weighted.map(|member| (member.endpoint.id.clone(), member.weight)).collect();
        wanted.sort_unstable();
        let fingerprint = wanted.iter().fold(FINGERPRINT_SEED, |sum, (id, weight)| {
            fold(fold(sum, hash(id.as_bytes(), FINGERPRINT_SEED)), u64::from(*weight))
        });
        let mut known = self.0.borrow_mut();
        if let Some(table) = known.get(&fingerprint).and_then(Weak::upgrade).filter(|table| table.members == wanted) {
            return table;
        }
        let table = Rc::new(Table::build(wanted));
        known.retain(|_, table| table.strong_count() > 0);
        known.insert(fingerprint, Rc::downgrade(&table));
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Random;
    use crate::balance::testing::members;
    use proptest::prelude::*;

    fn identities(count: u64) -> Vec<(String, u32)> {
        let mut members: Vec<_> = (0..count).map(|n| (format!("{:016x}", hash(&n.to_le_bytes(), 9)), 1)).collect();
        members.sort_unstable();
        members
    }

    fn loads(table: &Table) -> Vec<u64> {
        let mut loads = vec![0; table.members.len()];
        for &position in &table.slots {
            loads[position as usize] += 1;
        }
        loads
    }

    /// The share of slots with another owner, in percent, and of those whose old owner is still there.
    fn changed(before: &Table, after: &Table) -> (f64, f64) {
        let mut counts = (0, 0);
        for (&old, &new) in before.slots.iter().zip(&after.slots) {
            let (old, new) = (&before.members[old as usize].0, &after.members[new as usize].0);
            if old != new {
                counts.0 += 1;
                counts.1 += u64::from(after.members.binary_search_by_key(&old, |(id, _)| id).is_ok());
            }
        }
        let percent = |count: u64| count as f64 * 100.0 / SLOTS as f64;
        (percent(counts.0), percent(counts.1))
    }

    fn without(members: &[(String, u32)], leaving: usize, random: &Random) -> Vec<(String, u32)> {
        let mut left = members.to_vec();
        for _ in 0..leaving {
            left.remove(random.below(left.len() as u64) as usize);
        }
        left
    }

    /// Bar P17: N = 1000, M = 65537; the mean of 20 trials, for a single one scatters.
    #[test]
    #[allow(clippy::print_stdout)] // the figures are the bar's; benchmarks/README.md says how to see them
    fn p17_disruption_and_balance() {
        let (trials, random) = (20, Random::seeded(17));
        let members = identities(1000);
        let before = Table::build(members.clone());
        for (leaving, most) in [(1, 0.7), (10, 3.4), (100, 13.6)] {
            let mut sum = (0.0, 0.0);
            for _ in 0..trials {
                let (all, needless) = changed(&before, &Table::build(without(&members, leaving, &random)));
                sum = (sum.0 + all / f64::from(trials), sum.1 + needless / f64::from(trials));
            }
            println!("P17: {leaving} of 1000 leave: {:.2} % of slots change, {:.2} % needlessly", sum.0, sum.1);
            assert!(sum.0 <= most, "{} %, at most {most} % is wanted", sum.0);
        }
        let loads = loads(&before);
        let (most, least) = (loads.iter().max().expect("some"), loads.iter().min().expect("some"));
        println!("P17: slots a member: {least} to {most}, max over min {:.4}", *most as f64 / *least as f64);
        assert!(*most as f64 / *least as f64 <= 1.02);
    }

    #[test]
    fn an_endpoint_that_is_added_takes_its_share_and_little_else_moves() {
        let members = identities(21);
        let mut fewer = members.clone();
        fewer.remove(7);
        let (all, needless) = changed(&Table::build(fewer), &Table::build(members));
        assert!((4.7..6.5).contains(&all) && needless <= all, "{all} %: 1/21 is 4.8 %, {needless} % needless");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn slots_follow_the_weights(weights in prop::collection::vec(1u32..=256, 1..20)) {
            let members: Vec<_> = identities(weights.len() as u64).into_iter().zip(&weights).map(|((id, _), &w)| (id, w)).collect();
            let total = f64::from(weights.iter().sum::<u32>());
            let table = Table::build(members);
            for (load, weight) in loads(&table).iter().zip(&weights) {
                let fair = SLOTS as f64 * f64::from(*weight) / total;
                // Each member may be most of a turn behind; what all of them lack together is shared by weight.
                let most = 2.0 + weights.len() as f64 * f64::from(*weight) / total;
                prop_assert!((*load as f64 - fair).abs() <= most, "{load} slots, {fair} is fair");
            }
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter_and_a_table_is_built_once() {
        let mut list = members(&[1, 2, 0, 4]);
        let tables = Tables::default();
        let table = tables.obtain(&list);
        list.reverse();
        assert!(Rc::ptr_eq(&table, &tables.obtain(&list)));
        assert_eq!(table.identities().collect::<Vec<_>>(), ["0", "1", "3"], "weight 0 owns nothing");
        list[0].weight = 5;
        let heavier = tables.obtain(&list);
        assert!(!Rc::ptr_eq(&table, &heavier));
        drop((table, heavier));
        tables.obtain(&members(&[1]));
        assert_eq!(tables.0.borrow().len(), 1, "those that nobody uses are forgotten");
        assert_eq!(tables.obtain(&[]).owner(7), None);
    }
}
