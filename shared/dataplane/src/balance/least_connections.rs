//! The least loaded of all members per unit of weight; ties take turns.

use std::cell::Cell;

use super::{Choice, Policy};
use crate::pool::Member;

#[derive(Default)]
pub(super) struct LeastConnections {
    turn: Cell<usize>,
}

impl Policy for LeastConnections {
    /// Looks at every member: O(n), exact.
    fn pick(&self, members: &[Member], usable: &dyn Fn(usize) -> bool, _choice: &Choice<'_>) -> Option<usize> {
        let start = self.turn.get() % members.len().max(1);
        let mut best: Option<usize> = None;
        for index in (start..members.len()).chain(0..start) {
            if members[index].weight == 0 || !usable(index) {
                continue;
            }
            let load = |index: usize| (members[index].endpoint.in_flight.get(), members[index].share());
            if best.is_none_or(|best| less_loaded(load(index), load(best))) {
                best = Some(index);
            }
        }
        self.turn.set(best? + 1);
        best
    }
}

/// Load per unit of weight, compared without division: is `a` less loaded than `b`?
fn less_loaded(a: (u32, u64), b: (u32, u64)) -> bool {
    (u64::from(a.0) + 1) * b.1 < (u64::from(b.0) + 1) * a.1
}

#[cfg(test)]
mod tests {
    use super::super::Random;
    use super::super::testing::{anybody, members, shares, slow_members};
    use super::*;
    use crate::clock;
    use crate::endpoint::EndpointRegistry;
    use proptest::prelude::*;

    /// Open `count` connections and keep them: how many each member has then.
    fn filled(members: &[Member], count: usize) -> Vec<u32> {
        let (policy, random) = (LeastConnections::default(), Random::seeded(0));
        let held: Vec<_> = (0..count)
            .filter_map(|_| policy.pick(members, &|_| true, &anybody(&random)))
            .map(|index| members[index].endpoint.enter())
            .collect();
        let loads = members.iter().map(|member| member.endpoint.in_flight.get()).collect();
        drop(held);
        loads
    }

    proptest! {
        #[test]
        fn connections_that_stay_are_spread_exactly_by_weight(weights in prop::collection::vec(0u32..9, 1..12)) {
            let total: u32 = weights.iter().sum();
            let loads = filled(&members(&weights), 10 * total as usize);
            for (load, weight) in loads.iter().zip(&weights) {
                prop_assert!(load.abs_diff(10 * weight) <= 1, "{loads:?} for {weights:?}");
            }
        }
    }

    #[test]
    fn ties_take_turns_and_an_unusable_member_gets_none() {
        let equal = members(&[2, 2]);
        assert_eq!(shares(&LeastConnections::default(), &equal, &|_| true, 10), [5, 5]);
        assert_eq!(shares(&LeastConnections::default(), &equal, &|index| index == 1, 10), [0, 10]);
        assert_eq!(shares(&LeastConnections::default(), &equal, &|_| false, 3), [0, 0]);
    }

    #[test]
    fn a_member_that_starts_slowly_holds_the_share_that_it_is_warm() {
        clock::tick();
        let members = slow_members(&[1, 1], 30_000, &EndpointRegistry::default());
        members[0].endpoint.start_slowly();
        assert_eq!(filled(&members, 110), [10, 100]);
    }
}
