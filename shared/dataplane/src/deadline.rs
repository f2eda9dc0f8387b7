//! Timeouts without timers: a deadline is one store; a ticker looks for those that have passed.
//!
//! A timer registration per read costs more than parsing a small request. Here each connection
//! owns one slot; setting a deadline writes a number into it, and every tick (100 ms) one scan wakes
//! the tasks whose deadline has passed. Timeouts are therefore never early, and late by two ticks at most.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::clock;

/// How often the data plane's ticker runs, in milliseconds.
pub const TICK_MS: u64 = 100;

/// As the time since when a task is idle: it is to hear of a drain whatever it does.
const ANY_TIME: u64 = 1;

#[derive(Default)]
struct Slot {
    at_ms: Cell<u64>,
    idle_since_ms: Cell<u64>,
    /// Expired for good: setting it anew does nothing.
    closed: Cell<bool>,
    /// Whose end is also this task's; 0 = nobody's.
    group: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

/// All deadlines of one data-plane thread.
#[derive(Default)]
pub struct Deadlines {
    slots: RefCell<Vec<Rc<Slot>>>,
}

/// One task's deadline. Dropping it takes it out of the scan.
pub struct Deadline {
    slot: Rc<Slot>,
}

impl Deadlines {
    /// A new deadline, not yet set.
    pub fn register(&self) -> Deadline {
        let slot = Rc::new(Slot::default());
        self.slots.borrow_mut().push(Rc::clone(&slot));
        Deadline { slot }
    }

    /// Wake every task whose deadline has passed. Also forgets dropped deadlines.
    pub fn scan(&self) {
        let now = clock::coarse_ms();
        let mut slots = self.slots.borrow_mut();
        let mut index = 0;
        while index < slots.len() {
            let slot = &slots[index];
            if Rc::strong_count(slot) == 1 {
                slots.swap_remove(index);
                continue;
            }
            let at = slot.at_ms.get();
            if at != 0
                && at <= now
                && let Some(waker) = slot.waker.borrow_mut().take()
            {
                waker.wake();
            }
            index += 1;
        }
    }

    /// Make every deadline pass now (a drain's end), or only those of tasks that have been idle for `idle_ms` or are to
    /// hear of the drain.
    pub fn expire(&self, idle_ms: Option<u64>) {
        let now = clock::coarse_ms();
        for slot in self.slots.borrow().iter() {
            let since = slot.idle_since_ms.get();
            let idle_for = |wanted_ms: u64| since == ANY_TIME || since != 0 && since + wanted_ms <= now;
            if idle_ms.is_none_or(idle_for) {
                slot.at_ms.set(1);
                slot.closed.set(idle_ms.is_none());
                if let Some(waker) = slot.waker.borrow_mut().take() {
                    waker.wake();
                }
            }
        }
    }

    /// Make the deadlines of one group pass now and for good.
    pub fn expire_group(&self, group: usize) {
        for slot in self.slots.borrow().iter().filter(|slot| slot.group.get() == group) {
            slot.end();
        }
    }

    /// How many deadlines are registered (dropped ones leave at the next scan).
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Whether none is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Slot {
    fn end(&self) {
        self.at_ms.set(1);
        self.closed.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl Deadline {
    /// Pass together with the others of `group` (not 0).
    pub fn join(&self, group: usize) {
        self.slot.group.set(group);
    }

    /// Pass now and for good.
    pub fn end(&self) {
        self.slot.end();
    }

    /// Whether it has passed for good: by its group's end, or by a drain's.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.slot.closed.get()
    }

    /// Expire `after_ms` from now; 0 = never. Never early: the coarse clock may be one tick behind.
    pub fn set(&self, after_ms: u64) {
        if !self.slot.closed.get() {
            self.slot.at_ms.set(if after_ms == 0 { 0 } else { clock::coarse_ms() + TICK_MS + after_ms });
        }
    }

    /// Expire `after_ms` from now or at `limit_ms` (absolute, 0 = none), whichever is first.
    pub fn set_within(&self, after_ms: u64, limit_ms: u64) {
        self.set(after_ms);
        let at = self.slot.at_ms.get();
        if limit_ms != 0 && (at == 0 || limit_ms < at) && !self.slot.closed.get() {
            self.slot.at_ms.set(limit_ms);
        }
    }

    /// Never expire.
    pub fn clear(&self) {
        self.set(0);
    }

    /// The task has begun, or ceased, to wait for work that may never come.
    pub fn set_idle(&self, idle: bool) {
        self.slot.idle_since_ms.set(if idle { clock::coarse_ms().max(ANY_TIME + 1) } else { 0 });
    }

    /// The task has a way to tell its peer before it ends: a drain wakes it at once, idle or not.
    pub fn hear_of_drain(&self, hears: bool) {
        self.slot.idle_since_ms.set(if hears { ANY_TIME } else { 0 });
    }

    /// Whether the deadline has passed.
    #[must_use]
    pub fn expired(&self) -> bool {
        let at = self.slot.at_ms.get();
        at != 0 && at <= clock::coarse_ms()
    }

    /// Ready once the deadline has passed; otherwise the task is woken when it does.
    pub fn poll_expired(&self, context: &Context<'_>) -> Poll<()> {
        if self.expired() {
            return Poll::Ready(());
        }
        let mut waker = self.slot.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_passed_deadline_wakes_its_task_once_and_a_dropped_one_is_forgotten() {
        clock::tick();
        let deadlines = Deadlines::default();
        let deadline = deadlines.register();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let context = Context::from_waker(&waker);
        assert!(deadline.poll_expired(&context).is_pending());
        deadlines.scan();
        assert_eq!(count.0.load(Ordering::Relaxed), 0, "unset never fires");
        deadline.set_within(60_000, 1);
        deadlines.scan();
        deadlines.scan();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(deadline.poll_expired(&context).is_ready());
        deadline.set(60_000);
        assert!(!deadline.expired());
        deadline.set_idle(true);
        deadlines.expire(Some(60_000));
        assert!(!deadline.expired(), "not idle for long enough");
        deadline.hear_of_drain(true);
        deadlines.expire(Some(u64::MAX));
        assert!(deadline.expired(), "it hears of it, however short it was idle");
        deadline.set(60_000);
        deadline.hear_of_drain(false);
        deadlines.expire(Some(0));
        assert!(!deadline.expired(), "neither that nor idle");
        deadline.set_idle(true);
        deadlines.expire(Some(0));
        assert!(deadline.expired());
        deadline.set(60_000);
        assert!(!deadline.expired());
        deadlines.expire(None);
        deadline.set(60_000);
        assert!(deadline.expired(), "the end is the end");
        drop(deadline);
        deadlines.scan();
        assert!(deadlines.is_empty());
    }

    #[test]
    fn a_group_ends_together_and_leaves_the_others() {
        clock::tick();
        let deadlines = Deadlines::default();
        let [one, two, other, alone] = std::array::from_fn(|_| deadlines.register());
        one.join(7);
        two.join(7);
        other.join(8);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        assert!(one.poll_expired(&Context::from_waker(&waker)).is_pending());
        deadlines.expire_group(7);
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "woken at once, not at the next tick");
        one.set(60_000);
        assert!([&one, &two].iter().all(|deadline| deadline.expired() && deadline.ended()));
        assert!([&other, &alone].iter().all(|deadline| !deadline.expired() && !deadline.ended()));
    }
}
