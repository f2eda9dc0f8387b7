//! The less loaded of two members sampled by weight, by the load that they report themselves.
//!
//! For gateways on other hosts: several edges share them, so what one edge sees is not their load. What
//! this edge has opened and closed since the report is counted in: news that is a second old would
//! otherwise send a second's worth of connections to the same member.

use super::sampler::{Sampler, is_warm};
use super::{Choice, Policy};
use crate::pool::Member;

pub(super) struct LeastLoad {
    sampler: Sampler,
}

impl LeastLoad {
    pub(super) fn new(members: &[Member]) -> Self {
        Self { sampler: Sampler::new(members) }
    }
}

impl Policy for LeastLoad {
    /// The cost does not grow with the pool while most members are usable.
    fn pick(&self, members: &[Member], usable: &dyn Fn(usize) -> bool, choice: &Choice<'_>) -> Option<usize> {
        let first = self.sampler.draw(members, usable, choice.random)?;
        let other = |index: usize| index != first && usable(index);
        let Some(second) = self.sampler.draw_once(members, &other, choice.random) else { return Some(first) };
        if !is_warm(&members[second], choice.random) {
            return Some(first);
        }
        // A tie goes to the first, so that idle members are chosen by weight.
        let load = |index: usize| u128::from(members[index].endpoint.load());
        let share = |index: usize| u128::from(members[index].share());
        let less = load(second) * share(first) < load(first) * share(second);
        Some(if less { second } else { first })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{shares, slow_members, weight_error};
    use super::*;
    use crate::clock;
    use crate::endpoint::{EndpointRegistry, OpenConnection};
    use crate::endpoint_report::parse_reports;

    /// Tell the load of each member, as the answer of this number; `None` = it said nothing.
    fn report(registry: &EndpointRegistry, number: u64, loads: &[Option<u64>]) {
        let reports = loads.iter().enumerate().map(|(index, units)| match units {
            None => format!(r#"{{"id":"{index}","state":"up","addresses":[]}}"#),
            Some(units) => format!(
                r#"{{"id":"{index}","state":"up","addresses":[],
                    "load":{{"number":{number},"units":{units},"per_connection":500}}}}"#
            ),
        });
        let list = format!("[{}]", reports.collect::<Vec<_>>().join(","));
        registry.apply(parse_reports(list.as_bytes()).expect("valid"));
    }

    #[test]
    fn idle_members_share_by_weight_and_the_busier_of_two_gets_nothing() {
        clock::tick();
        let registry = EndpointRegistry::default();
        let members = slow_members(&[1, 3, 0], 0, &registry);
        let policy = LeastLoad::new(&members);
        let counts = shares(&policy, &members, &|_| true, 20_000);
        assert!(weight_error(&counts, &[1, 3, 0]) < 0.02 && counts[2] == 0, "{counts:?}");
        report(&registry, 1, &[Some(1000), Some(9000)]);
        assert_eq!(shares(&policy, &members, &|_| true, 1000), [1000, 0, 0]);
        assert_eq!(shares(&policy, &members, &|index| index == 1, 10), [0, 10, 0], "the other is out");
        assert_eq!(shares(&policy, &members, &|_| false, 10), [0, 0, 0]);
    }

    #[test]
    fn one_report_does_not_draw_everything_to_the_idlest_member() {
        clock::tick();
        let registry = EndpointRegistry::default();
        let members = slow_members(&[1, 1, 1], 0, &registry);
        report(&registry, 7, &[Some(0), Some(5000), Some(5000)]);
        let policy = LeastLoad::new(&members);
        let random = super::super::Random::seeded(5);
        let open = || -> OpenConnection {
            let choice = super::super::testing::anybody(&random);
            let index = policy.pick(&members, &|_| true, &choice).expect("one is usable");
            members[index].endpoint.open()
        };
        let mut held: Vec<_> = (0..40).map(|_| open()).collect();
        let now = || members.iter().map(|member| member.endpoint.connections.get()).collect::<Vec<_>>();
        // 10 connections lift the first to the others' 5000; what follows is shared.
        assert!((15..=25).contains(&now()[0]), "{:?}", now());
        // The same report again, pushed for another endpoint's sake, is no news.
        let before = members[0].endpoint.load();
        report(&registry, 7, &[Some(0), Some(5000), Some(5000)]);
        assert_eq!(members[0].endpoint.load(), before);
        // A new one has seen them all.
        report(&registry, 8, &[Some(10_000), Some(5000), Some(5000)]);
        assert_eq!(members[0].endpoint.load(), 10_000);
        held.clear();
        assert!(members[0].endpoint.load() < 3000, "those that have ended are taken off");
    }

    #[test]
    fn a_member_that_says_nothing_is_judged_by_the_own_connections() {
        clock::tick();
        let registry = EndpointRegistry::default();
        let members = slow_members(&[1, 1], 0, &registry);
        report(&registry, 1, &[None, Some(3000)]);
        let _held: Vec<_> = (0..4).map(|_| members[0].endpoint.open()).collect();
        assert_eq!((members[0].endpoint.load(), members[1].endpoint.load()), (4000, 3000));
        // It had said something, and stops: its own word is too old to count.
        report(&registry, 2, &[None, None]);
        assert_eq!(members[1].endpoint.load(), 0);
    }
}
