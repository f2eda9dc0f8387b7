//! The less loaded of two members sampled by weight (Mitzenmacher, "The Power of Two Choices", 2001).

use super::sampler::{Sampler, is_warm};
use super::{Choice, Policy};
use crate::pool::Member;

pub(super) struct LeastRequest {
    sampler: Sampler,
}

impl LeastRequest {
    pub(super) fn new(members: &[Member]) -> Self {
        Self { sampler: Sampler::new(members) }
    }
}

impl Policy for LeastRequest {
    /// The cost does not grow with the pool while most members are usable.
    fn pick(&self, members: &[Member], usable: &dyn Fn(usize) -> bool, choice: &Choice<'_>) -> Option<usize> {
        let first = self.sampler.draw(members, usable, choice.random)?;
        if members.len() == 1 {
            return Some(first);
        }
        let other = |index: usize| index != first && usable(index);
        let Some(second) = self.sampler.draw_once(members, &other, choice.random) else { return Some(first) };
        // A tie goes to the first, so that idle members are chosen by weight.
        let load = |index: usize| u64::from(members[index].endpoint.in_flight.get());
        let (of_first, of_second) = (load(first), load(second));
        if of_first == 0 || !is_warm(&members[second], choice.random) {
            return Some(first);
        }
        let less = of_second * members[first].share() < of_first * members[second].share();
        Some(if less { second } else { first })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{members, shares, slow_members, weight_error};
    use super::*;
    use crate::clock;
    use crate::endpoint::EndpointRegistry;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn idle_members_are_chosen_by_weight_and_weight_zero_gets_nothing(
            weights in prop::collection::vec(0u32..9, 1..12)
        ) {
            prop_assume!(weights.iter().any(|&weight| weight > 0));
            let members = members(&weights);
            let counts = shares(&LeastRequest::new(&members), &members, &|_| true, 20_000);
            prop_assert!(weight_error(&counts, &weights) < 0.02, "{counts:?} for {weights:?}");
            prop_assert!(counts.iter().zip(&weights).all(|(&count, &weight)| weight > 0 || count == 0));
        }
    }

    #[test]
    fn never_the_busier_of_two_and_never_an_unusable_one() {
        let members = members(&[1, 1]);
        let held: Vec<_> = (0..5).map(|_| members[0].endpoint.enter()).collect();
        let policy = LeastRequest::new(&members);
        let counts = shares(&policy, &members, &|_| true, 10_000);
        assert_eq!(counts, [0, 10_000]);
        assert_eq!(shares(&policy, &members, &|index| index == 0, 100), [100, 0]);
        assert_eq!(shares(&policy, &members, &|_| false, 100), [0, 0]);
        drop(held);
    }

    #[test]
    fn a_member_that_starts_slowly_is_not_flooded_for_being_idle() {
        clock::tick();
        let members = slow_members(&[1, 1, 1, 1], 30_000, &EndpointRegistry::default());
        members[0].endpoint.start_slowly();
        let held: Vec<_> =
            (1..4).flat_map(|index| [members[index].endpoint.enter(), members[index].endpoint.enter()]).collect();
        let counts = shares(&LeastRequest::new(&members), &members, &|_| true, 10_000);
        assert!((100..1000).contains(&counts[0]), "{counts:?}: far less than a quarter is wanted");
        drop(held);
    }
}
