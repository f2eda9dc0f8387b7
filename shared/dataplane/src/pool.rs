//! A pool at run time: its members in tiers, its policy, and what happens when none is up.

use std::rc::Rc;

use crate::balance::{Choice, Policy, policy};
pub use crate::endpoint::FULL_WARMTH;
use crate::endpoint::{Endpoint, EndpointRegistry, Health};
use crate::place::{Place, Queue};
use crate::reason::Reason;
use crate::snapshot::{self, AllDown};

/// An endpoint and its weight in this snapshot.
pub struct Member {
    /// The endpoint; its state outlives the snapshot.
    pub endpoint: Rc<Endpoint>,
    /// Its share; 0 = no new work.
    pub weight: u32,
    /// How long it takes to its whole share after it came up; 0 = none.
    pub slow_start_ms: u64,
}

impl Member {
    /// The part of its share that it may have now, in thousandths.
    #[must_use]
    pub fn warmth(&self) -> u64 {
        if self.slow_start_ms == 0 { FULL_WARMTH } else { self.endpoint.warmth(self.slow_start_ms) }
    }

    /// Its weight as far as it has warmed up, in thousandths.
    #[must_use]
    pub fn share(&self) -> u64 {
        u64::from(self.weight) * self.warmth()
    }
}

/// The members that may be chosen among: a tier with all those before it.
struct Level {
    /// They are the first so many of the pool.
    end: usize,
    /// The weight of which a part must be usable: theirs, as far as they are of the first priority.
    whole: u64,
    policy: Box<dyn Policy>,
}

/// A pool of one snapshot.
pub struct Pool {
    /// As configured.
    pub settings: snapshot::Pool,
    /// Its endpoints by tier: by priority, in each the near ones first; otherwise in the order written.
    pub members: Vec<Member>,
    levels: Vec<Level>,
    /// Who waits for a place at one of its endpoints; it outlives the snapshot.
    pub queue: Rc<Queue>,
}

impl Pool {
    /// The run-time form of `settings`.
    #[must_use]
    pub fn new(settings: &snapshot::Pool, registry: &EndpointRegistry) -> Self {
        let tier = |endpoint: &snapshot::Endpoint| (endpoint.priority, endpoint.remote);
        let mut sorted: Vec<_> = settings.endpoints.iter().collect();
        sorted.sort_by_key(|endpoint| tier(endpoint));
        let running = sorted.iter().any(|endpoint| registry.knows(&endpoint.id));
        let member = |settings: &snapshot::Pool, endpoint: &snapshot::Endpoint| {
            let joins = running && !registry.knows(&endpoint.id);
            let obtained = registry.obtain(&endpoint.id, &settings.name, &endpoint.address);
            if joins {
                obtained.start_slowly();
            }
            Member { endpoint: obtained, weight: endpoint.weight, slow_start_ms: settings.slow_start_ms }
        };
        let members: Vec<Member> = sorted.iter().map(|endpoint| member(settings, endpoint)).collect();
        let first = sorted.first().map_or(0, |endpoint| endpoint.priority);
        let level = |end: usize| Level {
            end,
            whole: sorted[..end].iter().filter(|e| e.priority == first).map(|e| u64::from(e.weight)).sum(),
            policy: policy(&settings.balance, &members[..end], &registry.tables),
        };
        let ends = (1..=sorted.len()).filter(|&end| end == sorted.len() || tier(sorted[end - 1]) != tier(sorted[end]));
        let queue = registry.queue(&settings.name);
        Self { levels: ends.map(level).collect(), settings: settings.clone(), members, queue }
    }

    /// Choose a member that `untried` permits and that has room for one more connection.
    ///
    /// Errors: `pool_overloaded` when there is one to wait for; otherwise as [`Self::pick`]. An endpoint that
    /// is down is no substitute for one that has no room.
    pub fn pick_with_room(
        &self,
        untried: &dyn Fn(usize) -> bool,
        has_room: &dyn Fn(usize) -> bool,
        choice: &Choice<'_>,
    ) -> Result<usize, Reason> {
        if self.settings.max_connections == 0 {
            return self.pick(untried, choice);
        }
        let eligible = |index: usize| self.members[index].weight > 0 && untried(index);
        let usable = |index: usize| self.members[index].endpoint.usable();
        let any = |test: &dyn Fn(usize) -> bool| (0..self.members.len()).any(test);
        let any_usable = any(&|index| eligible(index) && usable(index));
        let allowed = |index: usize| untried(index) && has_room(index) && (!any_usable || usable(index));
        self.pick(&allowed, choice).map_err(|reason| {
            let opens = self.settings.all_down == AllDown::FailOpen;
            let stays = |index: usize| self.members[index].endpoint.health() != Health::Draining;
            let later = any_usable || opens && any(&|index| eligible(index) && stays(index));
            if reason == Reason::NoEndpoint && later { Reason::PoolOverloaded } else { reason }
        })
    }

    /// Whether a member is below its limit of connections.
    #[must_use]
    pub fn has_room(&self, index: usize) -> bool {
        let limit = self.settings.max_connections;
        limit == 0 || self.members[index].endpoint.connections.get() < limit
    }

    /// Count a connection to a member; it gives its place to whoever waits.
    #[must_use]
    pub fn open(&self, index: usize) -> Place {
        Place::new(self.members[index].endpoint.open(), &self.queue)
    }

    /// Choose a member that `allowed` permits (not tried yet, below its limits).
    ///
    /// Errors: `pool_empty` when no member may ever get traffic, `no_endpoint` when all are down and
    /// the pool fails closed, or when no further one is allowed.
    pub fn pick(&self, allowed: &dyn Fn(usize) -> bool, choice: &Choice<'_>) -> Result<usize, Reason> {
        if self.members.iter().all(|member| member.weight == 0) {
            return Err(Reason::PoolEmpty);
        }
        let usable = |index: usize| self.members[index].endpoint.usable() && allowed(index);
        for level in &self.levels[self.enough()..] {
            if let Some(index) = level.policy.pick(&self.members[..level.end], &usable, choice) {
                return Ok(index);
            }
        }
        if self.settings.all_down == AllDown::FailClosed {
            return Err(Reason::NoEndpoint);
        }
        let any = |index: usize| self.members[index].endpoint.health() != Health::Draining && allowed(index);
        let last = self.levels.last().ok_or(Reason::PoolEmpty)?;
        last.policy.pick(&self.members, &any, choice).ok_or(Reason::NoEndpoint)
    }

    /// The first level with enough usable members; the last one when none has.
    fn enough(&self) -> usize {
        let last = self.levels.len().saturating_sub(1);
        let (mut start, mut usable) = (0, 0);
        for (number, level) in self.levels[..last].iter().enumerate() {
            let tier = self.members[start..level.end].iter().filter(|member| member.endpoint.usable());
            usable += tier.map(|member| u64::from(member.weight)).sum::<u64>();
            if usable > 0 && usable * 100 >= level.whole * u64::from(self.settings.minimum_healthy_percent) {
                return number;
            }
            start = level.end;
        }
        last
    }

    /// A connect to a member failed. Not its fault when it is we who lack descriptors or local ports.
    pub fn connect_failed(&self, index: usize, reason: Reason) {
        if reason != Reason::Exhausted {
            self.members[index].endpoint.connect_failed(self.may_eject(index));
        }
    }

    /// A member ended a stream before it had sent a byte, `after_us` after the connect. It counts where
    /// the pool says so.
    pub fn closed_early(&self, index: usize, after_us: u64) {
        if after_us < self.settings.eject.early_close_ms.saturating_mul(1000) {
            self.members[index].endpoint.closed_early(self.may_eject(index));
        }
    }

    /// Whether ejecting this one keeps to the share of the pool that may be out at once. One always may:
    /// else a cap below 1/n would switch ejection off.
    fn may_eject(&self, index: usize) -> bool {
        let percent = self.settings.eject.max_percent as usize;
        let (mut eligible, mut out) = (0, 0);
        for (other, member) in self.members.iter().enumerate().filter(|(_, member)| member.weight > 0) {
            eligible += 1;
            out += usize::from(other != index && member.endpoint.ejected());
        }
        percent > 0 && (out == 0 || (out + 1) * 100 <= percent * eligible)
    }

    /// Which member `endpoint` is.
    #[must_use]
    pub fn index_of(&self, endpoint: &Rc<Endpoint>) -> Option<usize> {
        self.members.iter().position(|member| Rc::ptr_eq(&member.endpoint, endpoint))
    }

    /// Whether `endpoint` is a member.
    #[must_use]
    pub fn has(&self, endpoint: &Rc<Endpoint>) -> bool {
        self.index_of(endpoint).is_some()
    }

    /// The member of this endpoint id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<usize> {
        self.members.iter().position(|member| member.endpoint.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Random;
    use crate::balance::testing::anybody;
    use crate::clock;
    use crate::endpoint_report::{EndpointReport, parse_reports};
    use crate::snapshot::{Balance, Eject};

    /// Settings for endpoints of (weight, priority, remote), named e0, e1, ….
    fn settings(all_down: AllDown, endpoints: &[(u32, u32, bool)]) -> snapshot::Pool {
        let endpoints = endpoints.iter().enumerate().map(|(index, &(weight, priority, remote))| {
            let id = format!("e{index}");
            snapshot::Endpoint { id, address: "10.0.0.1:80".into(), weight, priority, remote }
        });
        snapshot::Pool {
            name: "p".into(),
            balance: Balance::RoundRobin,
            endpoints: endpoints.collect(),
            all_down,
            minimum_healthy_percent: 50,
            slow_start_ms: 10_000,
            eject: Eject { max_percent: 50, early_close_ms: 1000 },
            on_down: snapshot::OnDown::Keep,
            connect_timeout_ms: 0,
            retries: 0,
            max_connections: 0,
            queue_size: 0,
            queue_timeout_ms: 0,
            max_idle_connections: 0,
            idle_timeout_ms: 0,
            protocol: snapshot::PoolProtocol::Http1,
            max_streams: 100,
            max_requests: 0,
            connection_age_ms: 0,
            tls: None,
            proxy_protocol: snapshot::ProxyProtocol::Off,
            gateways: false,
            health: None,
        }
    }

    fn pool(all_down: AllDown, weights: &[u32], registry: &EndpointRegistry) -> Pool {
        let endpoints: Vec<_> = weights.iter().map(|&weight| (weight, 0, false)).collect();
        Pool::new(&settings(all_down, &endpoints), registry)
    }

    fn report(registry: &EndpointRegistry, states: &[&str]) {
        let reports = states.iter().enumerate().map(|(index, state)| {
            let id = format!("e{index}");
            (id.clone(), EndpointReport { id, state: (*state).into(), addresses: vec![], closing: false, load: None })
        });
        registry.apply(reports.collect());
    }

    /// Who is chosen in 24 picks, by number and sorted.
    fn chosen(pool: &Pool) -> String {
        let random = Random::seeded(1);
        let picks = (0..24).filter_map(|_| pool.pick(&|_| true, &anybody(&random)).ok());
        let mut names: Vec<_> = picks.map(|index| pool.members[index].endpoint.id[1..].to_owned()).collect();
        names.sort();
        names.dedup();
        names.concat()
    }

    #[test]
    fn down_members_are_skipped_and_all_down_follows_the_policy() {
        let random = Random::seeded(1);
        let choice = anybody(&random);
        let registry = EndpointRegistry::default();
        let open = pool(AllDown::FailOpen, &[1, 1], &registry);
        let closed = pool(AllDown::FailClosed, &[1, 1], &registry);
        report(&registry, &["down", "up"]);
        assert!((0..4).all(|_| closed.pick(&|_| true, &choice) == Ok(1)));
        report(&registry, &["down", "down"]);
        assert_eq!(closed.pick(&|_| true, &choice), Err(Reason::NoEndpoint));
        assert!(open.pick(&|_| true, &choice).is_ok());
        assert_eq!(open.pick(&|_| false, &choice), Err(Reason::NoEndpoint));
        report(&registry, &["down", "draining"]);
        assert!((0..4).all(|_| open.pick(&|_| true, &choice) == Ok(0)), "a draining one is never chosen");
        assert_eq!(pool(AllDown::FailOpen, &[0, 0], &registry).pick(&|_| true, &choice), Err(Reason::PoolEmpty));
        assert_eq!(pool(AllDown::FailOpen, &[], &registry).pick(&|_| true, &choice), Err(Reason::PoolEmpty));
        assert_eq!(open.find("e1"), Some(1));
    }

    #[test]
    fn a_full_endpoint_is_waited_for_and_a_down_one_takes_nothing_in_its_stead() {
        let random = Random::seeded(1);
        let choice = anybody(&random);
        for all_down in [AllDown::FailOpen, AllDown::FailClosed] {
            let registry = EndpointRegistry::default();
            let mut settings = settings(all_down, &[(1, 0, false), (1, 0, false), (0, 0, false)]);
            settings.max_connections = 1;
            let pool = Pool::new(&settings, &registry);
            let pick =
                |untried: &dyn Fn(usize) -> bool| pool.pick_with_room(untried, &|index| pool.has_room(index), &choice);
            report(&registry, &["up", "down"]);
            let place = pool.open(pick(&|_| true).expect("room"));
            assert_eq!(pool.members[0].endpoint.connections.get(), 1);
            assert_eq!(pick(&|_| true), Err(Reason::PoolOverloaded));
            report(&registry, &["up", "up"]);
            assert_eq!(pick(&|_| true), Ok(1));
            report(&registry, &["down", "down"]);
            let (open, alone) = (all_down == AllDown::FailOpen, |index| index == 0);
            assert_eq!(pick(&|_| true), if open { Ok(1) } else { Err(Reason::NoEndpoint) });
            assert_eq!(pick(&alone), Err(if open { Reason::PoolOverloaded } else { Reason::NoEndpoint }));
            assert_eq!(pick(&|_| false), Err(Reason::NoEndpoint));
            drop(place);
            report(&registry, &["up", "down"]);
            assert_eq!(pick(&|_| true), Ok(0));
        }
    }

    #[test]
    fn backups_join_when_too_little_of_the_first_priority_is_up() {
        let registry = EndpointRegistry::default();
        let tiers = [(1, 1, false), (1, 0, false), (1, 0, false), (2, 0, false), (1, 2, false)];
        let pool = Pool::new(&settings(AllDown::FailOpen, &tiers), &registry);
        for (states, wanted) in [
            (["up", "up", "up", "up", "up"], "123"),
            (["up", "down", "down", "up", "up"], "3"), // 2 of 4 by weight are enough
            (["up", "up", "down", "down", "up"], "01"), // 1 and the backup's 1 are 2 of 4
            (["down", "up", "down", "down", "up"], "14"),
            (["up", "down", "down", "down", "down"], "0"),
            (["down", "down", "down", "down", "up"], "4"),
            (["up", "draining", "draining", "draining", "up"], "04"),
            (["down", "down", "down", "down", "down"], "01234"),
        ] {
            report(&registry, &states);
            assert_eq!(chosen(&pool), wanted, "{states:?}");
        }
    }

    #[test]
    fn the_own_zone_comes_first_while_enough_of_it_is_up() {
        let registry = EndpointRegistry::default();
        let zones = [(1, 0, true), (1, 0, false), (1, 0, false), (1, 0, true), (1, 1, true)];
        let mut settings = settings(AllDown::FailOpen, &zones);
        let pool = Pool::new(&settings, &registry);
        for (states, wanted) in [
            (["up", "up", "up", "up", "up"], "12"),
            (["up", "up", "down", "up", "up"], "1"),
            (["up", "down", "down", "up", "up"], "03"),
            (["up", "down", "down", "down", "up"], "04"), // 1 of 4 of the first priority: the backup joins
        ] {
            report(&registry, &states);
            assert_eq!(chosen(&pool), wanted, "{states:?}");
        }
        settings.minimum_healthy_percent = 100;
        report(&registry, &["up", "up", "down", "up", "up"]);
        assert_eq!(chosen(&Pool::new(&settings, &registry)), "0134");
        settings.minimum_healthy_percent = 0;
        report(&registry, &["up", "down", "down", "down", "up"]);
        assert_eq!(chosen(&Pool::new(&settings, &registry)), "0", "the last one of a tier is enough");
    }

    #[test]
    fn when_nobody_of_a_tier_is_allowed_the_next_one_is_asked() {
        let registry = EndpointRegistry::default();
        let pool = Pool::new(&settings(AllDown::FailClosed, &[(1, 0, false), (1, 1, false)]), &registry);
        let random = Random::seeded(1);
        assert_eq!(pool.pick(&|index| index != 0, &anybody(&random)), Ok(1));
        assert_eq!(pool.pick(&|_| false, &anybody(&random)), Err(Reason::NoEndpoint));
    }

    #[test]
    fn at_most_the_share_is_ejected_at_once_but_one_always_may_be() {
        clock::tick();
        let ejected = |weights: &[u32], max_percent: u32| {
            let registry = EndpointRegistry::default();
            let mut settings = settings(AllDown::FailOpen, &[]);
            settings.endpoints = pool(AllDown::FailOpen, weights, &registry).settings.endpoints;
            settings.eject.max_percent = max_percent;
            let pool = Pool::new(&settings, &registry);
            for index in 0..weights.len() {
                pool.connect_failed(index, Reason::Exhausted);
            }
            assert!(pool.members.iter().all(|member| !member.endpoint.ejected()), "our own fault");
            for index in (0..weights.len()).chain(0..weights.len()) {
                pool.connect_failed(index, Reason::ConnectRefused);
            }
            pool.members.iter().filter(|member| member.endpoint.ejected()).count()
        };
        assert_eq!(ejected(&[1; 10], 50), 5);
        assert_eq!(ejected(&[1; 3], 50), 1);
        assert_eq!(ejected(&[1; 3], 10), 1);
        assert_eq!(ejected(&[1], 50), 1);
        assert_eq!(ejected(&[1, 1, 1, 0], 70), 2, "one of weight 0 serves nobody");
        assert_eq!(ejected(&[1; 4], 100), 4);
        assert_eq!(ejected(&[1; 4], 0), 0);
    }

    #[test]
    fn early_closes_count_within_the_time_only() {
        clock::tick();
        let pool = pool(AllDown::FailOpen, &[1, 1], &EndpointRegistry::default());
        (0..9).for_each(|_| pool.closed_early(0, 1_000_000));
        assert!(!pool.members[0].endpoint.ejected());
        (0..3).for_each(|_| pool.closed_early(0, 999_999));
        assert!(pool.members[0].endpoint.ejected());
    }

    #[test]
    fn one_that_joins_a_running_pool_starts_slowly_and_the_first_ones_do_not() {
        clock::tick();
        let registry = EndpointRegistry::default();
        let before = pool(AllDown::FailOpen, &[1, 1], &registry);
        let after = pool(AllDown::FailOpen, &[1, 1, 1], &registry);
        let warmth: Vec<_> = after.members.iter().map(Member::warmth).collect();
        assert_eq!(warmth, [FULL_WARMTH, FULL_WARMTH, 100]);
        assert!(before.members.iter().all(|member| member.share() == 1000));
    }

    #[test]
    fn reports_are_read_from_json() {
        let reports = parse_reports(br#"[{"id":"x","state":"up","addresses":["1.2.3.4:5"]}]"#).expect("valid");
        assert_eq!(reports["x"].state, "up");
        assert!(parse_reports(b"{}").is_err());
    }
}
