//! Places at the endpoints of a pool that has a maximum of connections, and the queue for them.
//!
//! First come, first served: only the first one in the queue looks for a place, whenever one may have
//! come free, and whoever leaves the queue lets the next one look. A queue belongs to a pool's name: those
//! who wait survive a reload, and go by the newest snapshot's endpoints and limits.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use crate::endpoint::OpenConnection;
use crate::metrics::Counter;
use crate::pool::Pool;

/// Those who wait for a place at an endpoint of one pool, in the order in which they came.
#[derive(Default)]
pub struct Queue {
    waiting: RefCell<BTreeMap<u64, Option<Waker>>>,
    next: Cell<u64>,
    /// A place may have come free since the first one looked.
    freed: Cell<bool>,
    newest: RefCell<Weak<Pool>>,
    /// How many have waited.
    pub waits: Counter,
}

impl Queue {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Wait behind the others; `None` when `size` wait already.
    #[must_use]
    pub fn join(self: &Rc<Self>, size: u32) -> Option<Ticket> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= size as usize {
            return None;
        }
        let number = self.next.get();
        self.next.set(number + 1);
        waiting.insert(number, None);
        self.waits.add_one();
        Some(Ticket { queue: Rc::clone(self), number })
    }

    /// From now on those who wait go by `pool`.
    pub fn follow(&self, pool: &Rc<Pool>) {
        *self.newest.borrow_mut() = Rc::downgrade(pool);
        self.tell_freed();
    }

    /// The pool of the newest snapshot that had one of this name.
    #[must_use]
    pub fn newest(&self) -> Option<Rc<Pool>> {
        self.newest.borrow().upgrade()
    }

    /// A place may have come free: let the first one look.
    pub fn tell_freed(&self) {
        let waiting = self.waiting.borrow();
        if let Some((_, waker)) = waiting.first_key_value() {
            self.freed.set(true);
            if let Some(waker) = waker {
                waker.wake_by_ref();
            }
        }
    }
}

/// Somebody's turn in a queue; dropping it leaves the queue.
pub struct Ticket {
    queue: Rc<Queue>,
    number: u64,
}

impl Ticket {
    /// Ready when it is this one's turn to look for a place. Having looked in vain, ask again.
    pub fn poll_turn(&self, context: &Context<'_>) -> Poll<()> {
        let mut waiting = self.queue.waiting.borrow_mut();
        let first = waiting.first_key_value().is_some_and(|(number, _)| *number == self.number);
        if first && self.queue.freed.take() {
            return Poll::Ready(());
        }
        if let Some(waker) = waiting.get_mut(&self.number)
            && !waker.as_ref().is_some_and(|known| known.will_wake(context.waker()))
        {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.waiting.borrow_mut().remove(&self.number);
        self.queue.tell_freed();
    }
}

/// A connection counted at an endpoint. When it ends, whoever waits is told.
pub struct Place {
    // dropped in this order: first the place is free, then it is told
    _open: OpenConnection,
    _tell: Tell,
}

impl Place {
    pub(crate) fn new(open: OpenConnection, queue: &Rc<Queue>) -> Self {
        Self { _open: open, _tell: Tell(Rc::clone(queue)) }
    }
}

struct Tell(Rc<Queue>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.tell_freed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn looks(ticket: &Ticket) -> bool {
        ticket.poll_turn(&Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_first_looks_once_for_each_news_and_the_next_one_after_it() {
        let queue = Rc::new(Queue::default());
        let [first, second] = [queue.join(2), queue.join(2)].map(|ticket| ticket.expect("room"));
        assert!(queue.join(2).is_none(), "full");
        assert!(!looks(&first) && !looks(&second));
        queue.tell_freed();
        assert!(!looks(&second), "not its turn");
        assert!(looks(&first) && !looks(&first));
        drop(first);
        assert!(looks(&second));
        drop(second);
        assert!(queue.is_empty() && queue.join(0).is_none());
        assert_eq!(queue.waits.value(), 2);
    }

    #[test]
    fn one_that_gives_up_in_the_middle_changes_nobody_s_turn() {
        let queue = Rc::new(Queue::default());
        let mut tickets: VecDeque<_> = (0..3).map(|_| queue.join(9).expect("room")).collect();
        drop(tickets.remove(1));
        queue.tell_freed();
        assert!(looks(&tickets[0]));
        drop(tickets.pop_front());
        assert!(looks(&tickets[0]));
    }

    proptest! {
        /// Against a plain list: places are taken in the order of coming, and none stays free while one waits.
        #[test]
        fn places_go_to_who_came_first(steps in prop::collection::vec((0u8..4, 0usize..8), 1..200)) {
            let (queue, mut free) = (Rc::new(Queue::default()), 2usize);
            let (mut waiting, mut oracle) = (Vec::<(u32, Ticket)>::new(), VecDeque::<u32>::new());
            let mut came = 0;
            for (step, which) in steps {
                match step {
                    0 if queue.is_empty() && free > 0 => free -= 1,
                    0 => if let Some(ticket) = queue.join(5) {
                        waiting.push((came, ticket));
                        oracle.push_back(came);
                        came += 1;
                    } else {
                        prop_assert_eq!(oracle.len(), 5);
                    },
                    1 if free < 2 => {
                        free += 1;
                        queue.tell_freed();
                    }
                    2 if !waiting.is_empty() => {
                        let (number, _gone) = waiting.remove(which % waiting.len());
                        oracle.retain(|other| *other != number);
                    }
                    _ => {}
                }
                // everybody is woken, in the least convenient order
                for _ in 0..=waiting.len() {
                    for at in (0..waiting.len()).rev() {
                        if looks(&waiting[at].1) && free > 0 {
                            free -= 1;
                            let (number, _seated) = waiting.remove(at);
                            prop_assert_eq!(Some(number), oracle.pop_front());
                            break;
                        }
                    }
                }
                prop_assert!(free == 0 || waiting.is_empty(), "{free} free, {} wait", waiting.len());
                prop_assert_eq!(queue.len(), oracle.len());
            }
        }
    }
}
