//! A thread without a runtime: it waits for fds, serves those that are ready, and takes calls.
//!
//! For work that is over after a few system calls, where a runtime's wake-up costs as much again.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;
use crate::net::{Poller, Waker};
use crate::worker::WorkerError;

/// The token of the thread's own waker; workers use smaller ones.
const WAKE: u64 = u64::MAX;

/// How long the thread may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until an fd is ready.
    Forever,
    /// Until an fd is ready, or so long.
    AtMost(Duration),
    /// So long whatever is ready; only a call ends it sooner.
    Pause(Duration),
}

/// What runs on the thread.
pub trait PollWorker: Sized + 'static {
    /// The fds to wait for.
    fn poller(&self) -> &Poller;
    /// Called before each wait.
    fn before_wait(&mut self) -> Wait;
    /// The fd of this token is ready. It is told again until it is not.
    fn ready(&mut self, token: u64);
    /// Called after all that were ready.
    fn after_ready(&mut self) {}
}

type Call<W> = Box<dyn FnOnce(&mut W) + Send>;

/// The handle that other threads hold; dropping it ends the thread.
pub struct PollThread<W> {
    calls: Mutex<Option<Sender<Call<W>>>>,
    waker: Arc<Waker>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<W: PollWorker> PollThread<W> {
    /// Start a thread and make its worker there. What `build` says is wrong is returned.
    pub fn start<F>(name: &str, build: F) -> Result<Self, WorkerError>
    where
        F: FnOnce() -> Result<W, String> + Send + 'static,
    {
        let failed = |error: std::io::Error| WorkerError::Start(error.to_string());
        let waker = Arc::new(Waker::new().map_err(failed)?);
        let (calls, receiver) = channel();
        let (report, started) = sync_channel(1);
        let woken = Arc::clone(&waker);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                clock::tick();
                let made = build().and_then(|worker| {
                    worker.poller().add(&*woken, WAKE).map(|()| worker).map_err(|error| error.to_string())
                });
                match made {
                    Ok(mut worker) => {
                        let _ = report.send(Ok(()));
                        let _ = run(&mut worker, &receiver, &woken);
                    }
                    Err(error) => drop(report.send(Err(error))),
                }
            })
            .map_err(failed)?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self { calls: Mutex::new(Some(calls)), waker, thread: Mutex::new(Some(thread)) }),
            Ok(Err(error)) => Err(WorkerError::Start(error)),
            Err(_) => Err(WorkerError::Stopped),
        }
    }

    /// Run `call` on the thread and wait for its result.
    pub fn call<T, F>(&self, call: F) -> Result<T, WorkerError>
    where
        T: Send + 'static,
        F: FnOnce(&mut W) -> T + Send + 'static,
    {
        let (reply, answer) = sync_channel(1);
        self.post(move |worker| {
            let _ = reply.send(call(worker));
        })?;
        answer.recv().map_err(|_| WorkerError::Stopped)
    }

    /// Run `call` on the thread some time soon.
    pub fn post(&self, call: impl FnOnce(&mut W) + Send + 'static) -> Result<(), WorkerError> {
        let calls = self.calls.lock().map_err(|_| WorkerError::Stopped)?.clone().ok_or(WorkerError::Stopped)?;
        calls.send(Box::new(call)).map_err(|_| WorkerError::Stopped)?;
        self.waker.wake();
        Ok(())
    }
}

impl<W> PollThread<W> {
    /// End the thread; everything it holds is closed.
    pub fn stop(&self) {
        if let Ok(mut calls) = self.calls.lock() {
            calls.take();
        }
        self.waker.wake();
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl<W> Drop for PollThread<W> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run<W: PollWorker>(worker: &mut W, calls: &Receiver<Call<W>>, waker: &Waker) -> std::io::Result<()> {
    let mut ready = Vec::new();
    loop {
        let timeout = match worker.before_wait() {
            Wait::Forever => None,
            Wait::AtMost(timeout) => Some(timeout),
            Wait::Pause(pause) => {
                waker.wait(pause);
                Some(Duration::ZERO)
            }
        };
        worker.poller().wait(timeout, &mut ready)?;
        clock::tick();
        for &token in &ready {
            if token != WAKE {
                worker.ready(token);
                continue;
            }
            waker.clear();
            loop {
                match calls.try_recv() {
                    Ok(call) => call(worker),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
        }
        worker.after_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    struct Echo {
        poller: Poller,
        stream: UnixStream,
        rounds: usize,
    }

    impl PollWorker for Echo {
        fn poller(&self) -> &Poller {
            &self.poller
        }
        fn before_wait(&mut self) -> Wait {
            Wait::Forever
        }
        fn ready(&mut self, token: u64) {
            assert_eq!(token, 5);
            let mut byte = [0];
            std::io::Read::read_exact(&mut self.stream, &mut byte).expect("reads");
            self.stream.write_all(&byte).expect("writes");
        }
        fn after_ready(&mut self) {
            self.rounds += 1;
        }
    }

    #[test]
    fn fds_are_served_calls_answered_and_the_end_is_the_end() {
        let (mut ours, theirs) = UnixStream::pair().expect("pair");
        let thread = PollThread::start("echo", move || {
            let poller = Poller::new().map_err(|error| error.to_string())?;
            poller.add(theirs.as_fd(), 5).map_err(|error| error.to_string())?;
            Ok(Echo { poller, stream: theirs, rounds: 0 })
        })
        .expect("starts");
        let mut byte = [0];
        for value in 0..3 {
            ours.write_all(&[value]).expect("writes");
            std::io::Read::read_exact(&mut ours, &mut byte).expect("reads");
            assert_eq!(byte, [value]);
        }
        assert!(thread.call(|echo| echo.rounds).expect("runs") >= 2);
        thread.stop();
        assert!(thread.call(|echo| echo.rounds).is_err());
        assert!(matches!(PollThread::<Echo>::start("no", || Err("why".into())), Err(WorkerError::Start(_))));
    }
}
