//! Relayed streams and the life of their endpoint: which end when it goes down or its drain is over.
//!
//! Each stream's deadline joins a group, its endpoint's, so that all of them end by one scan and no
//! list of streams is kept.

use std::rc::Rc;

use weirgate_shared::deadline::{Deadline, Deadlines};
use weirgate_shared::endpoint::{Endpoint, Health};
use weirgate_shared::reason::Reason;
use weirgate_shared::relay::End;
use weirgate_shared::snapshot::OnDown;

/// A stream's tie to its endpoint.
pub(crate) struct Tie {
    endpoint: Rc<Endpoint>,
    /// How often the endpoint had fallen when it was chosen.
    falls: u32,
}

impl Tie {
    /// Before the connect.
    pub(crate) fn to(endpoint: &Rc<Endpoint>) -> Self {
        Self { endpoint: Rc::clone(endpoint), falls: endpoint.falls() }
    }

    /// After the connect: from now on the stream ends with its endpoint. One that fell meanwhile ends it at once.
    pub(crate) fn fasten(&self, on_down: OnDown, deadline: &Deadline) {
        deadline.join(group(&self.endpoint));
        if self.endpoint.falls() != self.falls && ends(on_down, &self.endpoint) {
            deadline.end();
        }
    }

    /// Why the endpoint's life ended the stream, if that is what did. `closing` = the edge's own drain is over.
    pub(crate) fn broken(&self, deadline: &Deadline, end: End, closing: bool) -> Option<Reason> {
        if end != End::Idle || closing || !deadline.ended() {
            return None;
        }
        Some(reason(&self.endpoint))
    }
}

/// End the streams of an endpoint that went down, or whose drain has reached its deadline.
pub(crate) fn endpoint_fell(deadlines: &Deadlines, on_down: OnDown, endpoint: &Rc<Endpoint>) {
    if ends(on_down, endpoint) {
        deadlines.expire_group(group(endpoint));
    }
}

/// Whether what goes on with an endpoint ends when it falls.
pub(crate) fn ends(on_down: OnDown, endpoint: &Endpoint) -> bool {
    endpoint.closing() || on_down == OnDown::Close
}

/// Why it does.
pub(crate) fn reason(endpoint: &Endpoint) -> Reason {
    let down = endpoint.health() == Health::Down || !endpoint.closing();
    if down { Reason::EndpointDown } else { Reason::Draining }
}

/// An endpoint lives for as long as one of its streams, so its address names it.
fn group(endpoint: &Rc<Endpoint>) -> usize {
    Rc::as_ptr(endpoint).addr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weirgate_shared::clock;
    use weirgate_shared::endpoint::EndpointRegistry;
    use weirgate_shared::endpoint_report::parse_reports;

    fn tell(registry: &EndpointRegistry, report: &str) -> Vec<Rc<Endpoint>> {
        registry.apply(parse_reports(format!(r#"[{{"id":"a","addresses":[],{report}}}]"#).as_bytes()).expect("valid"))
    }

    fn outcome(on_down: OnDown, reports: &[&str]) -> Option<Reason> {
        clock::tick();
        let (registry, deadlines) = (EndpointRegistry::default(), Deadlines::default());
        let endpoint = registry.obtain("a", "p", "10.0.0.1:80");
        let (tie, deadline) = (Tie::to(&endpoint), deadlines.register());
        tie.fasten(on_down, &deadline);
        for report in reports {
            for fallen in tell(&registry, report) {
                endpoint_fell(&deadlines, on_down, &fallen);
            }
        }
        tie.broken(&deadline, End::Idle, false)
    }

    #[test]
    fn down_ends_streams_where_the_pool_says_so_and_a_drain_s_deadline_always_does() {
        let down = r#""state":"down""#;
        let drained = [r#""state":"draining""#, r#""state":"draining","closing":true"#];
        assert_eq!(outcome(OnDown::Keep, &[down]), None);
        assert_eq!(outcome(OnDown::Close, &[down]), Some(Reason::EndpointDown));
        for on_down in [OnDown::Keep, OnDown::Close] {
            assert_eq!(outcome(on_down, &drained[..1]), None, "draining alone ends nothing");
            assert_eq!(outcome(on_down, &drained), Some(Reason::Draining));
        }
    }

    #[test]
    fn one_that_cannot_be_reached_ends_its_streams_even_where_they_are_kept() {
        let (down, cut_off) = (r#""state":"down""#, r#""state":"down","closing":true"#);
        assert_eq!(outcome(OnDown::Keep, &[down, cut_off]), Some(Reason::EndpointDown));
        assert_eq!(outcome(OnDown::Keep, &[cut_off]), Some(Reason::EndpointDown));
    }

    #[test]
    fn a_fall_during_the_connect_is_not_missed_and_one_before_it_does_not_count() {
        clock::tick();
        let (registry, deadlines) = (EndpointRegistry::default(), Deadlines::default());
        let endpoint = registry.obtain("a", "p", "10.0.0.1:80");
        let (before, deadline) = (Tie::to(&endpoint), deadlines.register());
        tell(&registry, r#""state":"down""#);
        before.fasten(OnDown::Close, &deadline);
        assert_eq!(before.broken(&deadline, End::Idle, false), Some(Reason::EndpointDown));
        // all down and the pool fails open: the stream was meant for an endpoint that is down
        let (after, deadline) = (Tie::to(&endpoint), deadlines.register());
        after.fasten(OnDown::Close, &deadline);
        assert_eq!(after.broken(&deadline, End::Idle, false), None);
    }

    #[test]
    fn what_ended_by_itself_or_by_the_edge_s_drain_is_not_the_endpoint_s_doing() {
        clock::tick();
        let (registry, deadlines) = (EndpointRegistry::default(), Deadlines::default());
        let (tie, deadline) = (Tie::to(&registry.obtain("a", "p", "10.0.0.1:80")), deadlines.register());
        tie.fasten(OnDown::Close, &deadline);
        assert_eq!(tie.broken(&deadline, End::Idle, false), None, "idle only");
        deadlines.expire(None);
        assert_eq!(tie.broken(&deadline, End::Idle, true), None);
        assert_eq!(tie.broken(&deadline, End::Finished, false), None);
    }
}
