//! Smooth weighted round robin (nginx's): members take turns, the heavy ones spread among the light.

use std::cell::RefCell;

use super::{Choice, Policy};
use crate::pool::Member;

pub(super) struct RoundRobin {
    credit: RefCell<Vec<i64>>,
}

impl RoundRobin {
    pub(super) fn new(members: &[Member]) -> Self {
        Self { credit: RefCell::new(vec![0; members.len()]) }
    }
}

impl Policy for RoundRobin {
    /// Every usable member earns its weight; the richest pays the total and is chosen. O(n).
    fn pick(&self, members: &[Member], usable: &dyn Fn(usize) -> bool, _choice: &Choice<'_>) -> Option<usize> {
        let mut credit = self.credit.borrow_mut();
        let (mut best, mut total) = (None, 0);
        for (index, member) in members.iter().enumerate() {
            if member.weight == 0 || !usable(index) {
                continue;
            }
            let share = member.share() as i64; // at most 256,000
            total += share;
            credit[index] += share;
            if best.is_none_or(|best: usize| credit[index] > credit[best]) {
                best = Some(index);
            }
        }
        let best = best?;
        credit[best] -= total;
        Some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Random;
    use super::super::testing::{anybody, members, shares, slow_members};
    use super::*;
    use crate::clock;
    use crate::endpoint::EndpointRegistry;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_full_cycle_gives_each_member_exactly_its_weight(weights in prop::collection::vec(0u32..9, 1..12)) {
            let total: u32 = weights.iter().sum();
            let members = members(&weights);
            let counts = shares(&RoundRobin::new(&members), &members, &|_| true, total);
            prop_assert_eq!(counts, weights.iter().map(|&w| w as usize).collect::<Vec<_>>());
        }
    }

    #[test]
    fn turns_are_spread_and_an_unusable_member_gets_none() {
        let members = members(&[5, 1, 1]);
        let policy = RoundRobin::new(&members);
        let order: Vec<_> =
            (0..7).filter_map(|_| policy.pick(&members, &|_| true, &anybody(&Random::seeded(0)))).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(shares(&policy, &members, &|index| index == 2, 10), [0, 0, 10]);
        assert_eq!(policy.pick(&members, &|_| false, &anybody(&Random::seeded(0))), None);
    }

    #[test]
    fn a_member_that_starts_slowly_gets_the_share_that_it_is_warm() {
        clock::tick();
        let members = slow_members(&[1, 1], 30_000, &EndpointRegistry::default());
        members[0].endpoint.start_slowly();
        assert_eq!(shares(&RoundRobin::new(&members), &members, &|_| true, 110), [10, 100]);
    }
}
