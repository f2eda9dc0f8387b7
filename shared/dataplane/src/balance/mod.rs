//! Balance policies: how a pool chooses among its usable endpoints. One file a policy.

mod least_connections;
mod least_load;
mod least_request;
mod maglev;
mod maglev_table;
mod random;
mod round_robin;
mod sampler;

use std::cell::Cell;
use std::net::SocketAddr;

pub use maglev_table::Tables;

use crate::hash::{GAMMA, mix};
use crate::pool::Member;
use crate::snapshot::Balance;

/// What a choice may depend on, besides the members.
pub struct Choice<'a> {
    /// Chance.
    pub random: &'a Random,
    /// Whom it is for. Policies that need a key make it of this; the others never look.
    pub client: SocketAddr,
}

/// A balance policy. It keeps its own state and is asked once per request or stream.
pub trait Policy {
    /// The index of the chosen member among those that `usable` allows; `None` when there is none.
    ///
    /// Members of weight 0 are never chosen. `members` are those that the policy was made for.
    fn pick(&self, members: &[Member], usable: &dyn Fn(usize) -> bool, choice: &Choice<'_>) -> Option<usize>;
}

/// The registry: one line a policy.
#[must_use]
pub fn policy(kind: &Balance, members: &[Member], tables: &Tables) -> Box<dyn Policy> {
    match kind {
        Balance::LeastConnections => Box::new(least_connections::LeastConnections::default()),
        Balance::LeastLoad => Box::new(least_load::LeastLoad::new(members)),
        Balance::LeastRequest => Box::new(least_request::LeastRequest::new(members)),
        Balance::Maglev(settings) => Box::new(maglev::Maglev::new(settings, members, tables)),
        Balance::Random => Box::new(random::ByWeight::new(members)),
        Balance::RoundRobin => Box::new(round_robin::RoundRobin::new(members)),
    }
}

/// A small, fast, seedable generator (`SplitMix64`); not for secrets.
pub struct Random(Cell<u64>);

impl Random {
    /// A generator that repeats itself for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// A number below `bound` (which is at least 1).
    pub fn below(&self, bound: u64) -> u64 {
        let state = self.0.get().wrapping_add(GAMMA);
        self.0.set(state);
        ((u128::from(mix(state)) * u128::from(bound.max(1))) >> 64) as u64
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::endpoint::EndpointRegistry;

    /// Members of these weights.
    pub(crate) fn members(weights: &[u32]) -> Vec<Member> {
        slow_members(weights, 0, &EndpointRegistry::default())
    }

    /// Members of these weights that start slowly when they are told to; the registry takes reports.
    pub(crate) fn slow_members(weights: &[u32], slow_start_ms: u64, registry: &EndpointRegistry) -> Vec<Member> {
        weights
            .iter()
            .enumerate()
            .map(|(index, &weight)| {
                let address = format!("10.0.0.1:{}", 1000 + index);
                Member { endpoint: registry.obtain(&index.to_string(), "pool", &address), weight, slow_start_ms }
            })
            .collect()
    }

    /// The client number `number`: each has an address and a port of its own.
    pub(crate) fn client(number: u32) -> SocketAddr {
        SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 | number).into(), 1024 + (number % 60_000) as u16)
    }

    /// How often each member is chosen by `rounds` clients, with nothing in flight.
    pub(crate) fn shares(
        policy: &dyn Policy,
        members: &[Member],
        usable: &dyn Fn(usize) -> bool,
        rounds: u32,
    ) -> Vec<usize> {
        let random = Random::seeded(7);
        let mut counts = vec![0; members.len()];
        for number in 0..rounds {
            if let Some(index) = policy.pick(members, usable, &Choice { random: &random, client: client(number) }) {
                counts[index] += 1;
            }
        }
        counts
    }

    /// A choice for a client that does not matter.
    pub(crate) fn anybody(random: &Random) -> Choice<'_> {
        Choice { random, client: client(0) }
    }

    /// How far the shares are from the weights: the largest distance, in shares of the whole.
    pub(crate) fn weight_error(counts: &[usize], weights: &[u32]) -> f64 {
        let (drawn, total) = (counts.iter().sum::<usize>() as f64, f64::from(weights.iter().sum::<u32>()));
        let distance = |(&count, &weight): (&usize, &u32)| (count as f64 / drawn - f64::from(weight) / total).abs();
        counts.iter().zip(weights).map(distance).fold(0.0, f64::max)
    }
}
