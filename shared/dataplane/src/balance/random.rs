//! A member by chance and weight, blind to load.

use super::sampler::Sampler;
use super::{Choice, Policy};
use crate::pool::Member;

pub(super) struct ByWeight {
    sampler: Sampler,
}

impl ByWeight {
    pub(super) fn new(members: &[Member]) -> Self {
        Self { sampler: Sampler::new(members) }
    }
}

impl Policy for ByWeight {
    /// O(log n); no state that processes would have to share.
    fn pick(&self, members: &[Member], usable: &dyn Fn(usize) -> bool, choice: &Choice<'_>) -> Option<usize> {
        self.sampler.draw(members, usable, choice.random)
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
        fn shares_follow_the_weights_of_those_that_are_usable(
            weights in prop::collection::vec(0u32..9, 2..12),
            out in 0usize..12,
        ) {
            let members = members(&weights);
            let left: Vec<u32> =
                weights.iter().enumerate().map(|(index, &w)| if index == out { 0 } else { w }).collect();
            let counts = shares(&ByWeight::new(&members), &members, &|index| index != out, 20_000);
            if left.iter().any(|&weight| weight > 0) {
                prop_assert!(weight_error(&counts, &left) < 0.02, "{counts:?} for {left:?}");
                prop_assert!(counts.iter().zip(&left).all(|(&count, &weight)| weight > 0 || count == 0));
            } else {
                prop_assert_eq!(counts.iter().sum::<usize>(), 0);
            }
        }
    }

    #[test]
    fn a_member_that_starts_slowly_gets_the_share_that_it_is_warm() {
        clock::tick();
        let members = slow_members(&[1, 1], 30_000, &EndpointRegistry::default());
        members[0].endpoint.start_slowly();
        let counts = shares(&ByWeight::new(&members), &members, &|_| true, 22_000);
        assert!((1700..2300).contains(&counts[0]), "{counts:?}: a tenth of the other's is wanted");
        assert_eq!(shares(&ByWeight::new(&members), &members, &|index| index == 0, 50), [50, 0]);
    }
}
