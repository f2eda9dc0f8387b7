//! What all requests of a client's connection share, whatever the HTTP version.

use std::rc::Rc;

use weirgate_shared::balance::Random;
use weirgate_shared::clock;

use crate::config::Listener;
use crate::forwarded::Introduction;
use crate::insight::ConnectionFacts;
use crate::plane::{Gateway, Live};

/// A client's connection, for its requests.
pub(crate) struct Client {
    pub(crate) gateway: Rc<Gateway>,
    pub(crate) facts: ConnectionFacts,
    pub(crate) introduction: Introduction,
    pub(crate) listener: Rc<Listener>,
    pub(crate) listener_key: u64,
    /// The peer is a proxy whose word counts.
    pub(crate) trusted: bool,
    /// When it is too old for a further request (coarse clock; 0 = never).
    pub(crate) until_ms: u64,
    /// Counted for as long as it is open.
    pub(crate) _live: Live,
}

impl Client {
    /// Whether its listener is still configured.
    pub(crate) fn is_served(&self) -> bool {
        self.gateway.serves(self.listener_key)
    }

    /// Whether the client may send another request after the current one.
    pub(crate) fn goes_on(&self) -> bool {
        !self.gateway.is_draining() && self.is_served() && !self.is_old()
    }

    fn is_old(&self) -> bool {
        self.until_ms != 0 && self.until_ms <= clock::coarse_ms()
    }
}

/// When a connection that begins now will be too old: `age_ms` (0 = never) less up to a tenth by chance, so that
/// those opened together do not all come back together.
pub(crate) fn too_old_ms(age_ms: u64, random: &Random) -> u64 {
    if age_ms == 0 { 0 } else { clock::coarse_ms() + age_ms - random.below(age_ms / 10 + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_differ_by_a_tenth_at_most() {
        clock::tick();
        let random = Random::seeded(1);
        assert_eq!(too_old_ms(0, &random), 0);
        let ages: Vec<u64> = (0..100).map(|_| too_old_ms(1000, &random) - clock::coarse_ms()).collect();
        assert!(ages.iter().all(|age| (900..=1000).contains(age)), "{ages:?}");
        assert!(ages.iter().max().zip(ages.iter().min()).is_some_and(|(most, least)| most - least > 50));
    }
}
