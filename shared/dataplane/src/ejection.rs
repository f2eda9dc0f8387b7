//! Taking an endpoint out for a while because connections to it fail: one process's own observation.

use std::cell::Cell;

use crate::clock;

/// First ejection; doubled with each further failure in a row.
const PAUSE_MS: u64 = 1_000;
const PAUSE_MAX_MS: u64 = 30_000;
/// Streams in a row that ended early before that counts as a failure of the endpoint: one may be the
/// client's own fault.
const EARLY_CLOSES: u32 = 3;

/// What one endpoint's connections came to, and until when it is out.
#[derive(Default)]
pub(crate) struct Ejection {
    until_ms: Cell<u64>,
    connect_failures_in_a_row: Cell<u32>,
    early_closes_in_a_row: Cell<u32>,
}

impl Ejection {
    /// Whether it is out now.
    pub(crate) fn in_force(&self) -> bool {
        self.until_ms.get() > clock::coarse_ms()
    }

    /// Nothing of what was counted holds any more.
    pub(crate) fn forget(&self) {
        self.until_ms.set(0);
        self.connect_failures_in_a_row.set(0);
        self.early_closes_in_a_row.set(0);
    }

    /// A connect succeeded. That says nothing against streams that ended early.
    pub(crate) fn connected(&self) {
        self.connect_failures_in_a_row.set(0);
        if self.early_closes_in_a_row.get() < EARLY_CLOSES {
            self.until_ms.set(0);
        }
    }

    /// A stream had bytes of the endpoint, and ended well.
    pub(crate) fn answered(&self) {
        self.early_closes_in_a_row.set(0);
    }

    /// A connect failed. Where that is allowed, the endpoint is ejected, longer each time in a row.
    pub(crate) fn connect_failed(&self, may_eject: bool) {
        let before = self.connect_failures_in_a_row.get();
        self.connect_failures_in_a_row.set(before.saturating_add(1));
        if may_eject {
            self.eject(before);
        }
    }

    /// A stream ended before a byte came; the third in a row ejects, as a failed connect does.
    pub(crate) fn closed_early(&self, may_eject: bool) {
        let in_a_row = self.early_closes_in_a_row.get().saturating_add(1);
        self.early_closes_in_a_row.set(in_a_row);
        if may_eject && in_a_row >= EARLY_CLOSES {
            self.eject(in_a_row - EARLY_CLOSES);
        }
    }

    fn eject(&self, failures_before: u32) {
        let pause_ms = (PAUSE_MS << failures_before.min(8)).min(PAUSE_MAX_MS);
        self.until_ms.set(clock::coarse_ms() + pause_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_failures_eject_where_allowed_and_success_restores() {
        clock::tick();
        let ejection = Ejection::default();
        ejection.connect_failed(false);
        assert!(!ejection.in_force(), "not allowed");
        ejection.connect_failed(true);
        assert!(ejection.in_force());
        ejection.connected();
        assert!(!ejection.in_force());
        let pauses: Vec<_> = (0..100)
            .map(|_| {
                ejection.connect_failed(true);
                ejection.until_ms.get() - clock::coarse_ms()
            })
            .collect();
        assert_eq!(pauses[..6], [1000, 2000, 4000, 8000, 16000, 30000]);
        assert_eq!(pauses[99], PAUSE_MAX_MS);
    }

    #[test]
    fn three_early_closes_in_a_row_eject_though_connects_succeed() {
        clock::tick();
        let ejection = Ejection::default();
        for _ in 0..2 {
            ejection.closed_early(true);
            ejection.closed_early(true);
            ejection.answered();
        }
        assert!(!ejection.in_force(), "an answer between");
        for _ in 0..3 {
            ejection.connected();
            ejection.closed_early(true);
        }
        ejection.connected();
        assert!(ejection.in_force());
        ejection.forget();
        assert!(!ejection.in_force());
    }
}
