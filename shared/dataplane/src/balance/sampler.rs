//! Drawing a member by weight, for the policies that begin with chance.

use super::Random;
use crate::pool::{FULL_WARMTH, Member};

/// Draws before the next usable member is taken, whichever it is.
const DRAWS: usize = 16;

/// Draws members by weight in O(log n).
pub(super) struct Sampler {
    cumulative: Vec<u64>,
}

impl Sampler {
    pub(super) fn new(members: &[Member]) -> Self {
        let cumulative = members
            .iter()
            .scan(0, |sum, member| {
                *sum += u64::from(member.weight);
                Some(*sum)
            })
            .collect();
        Self { cumulative }
    }

    /// A usable member by weight. Drawn again while it is none, so that nobody inherits the share of one
    /// that is out; and while it has not warmed up, as often as it is cold.
    pub(super) fn draw(&self, members: &[Member], usable: &dyn Fn(usize) -> bool, random: &Random) -> Option<usize> {
        let total = *self.cumulative.last().filter(|&&total| total > 0)?;
        let mut cold = None;
        for _ in 0..DRAWS {
            let index = self.at(random.below(total));
            if usable(index) {
                if is_warm(&members[index], random) {
                    return Some(index);
                }
                cold = Some(index);
            }
        }
        cold.or_else(|| self.draw_once(members, usable, random))
    }

    /// One draw; when that member is not usable, the next one that is.
    pub(super) fn draw_once(
        &self,
        members: &[Member],
        usable: &dyn Fn(usize) -> bool,
        random: &Random,
    ) -> Option<usize> {
        let total = *self.cumulative.last().filter(|&&total| total > 0)?;
        let start = self.at(random.below(total));
        (start..members.len()).chain(0..start).find(|&index| members[index].weight > 0 && usable(index))
    }

    fn at(&self, point: u64) -> usize {
        self.cumulative.partition_point(|&end| end <= point)
    }
}

/// A toss that a member which starts slowly wins as often as it is warm; the others win it always.
pub(super) fn is_warm(member: &Member, random: &Random) -> bool {
    let warmth = member.warmth();
    warmth == FULL_WARMTH || random.below(FULL_WARMTH) < warmth
}
