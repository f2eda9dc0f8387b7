//! A data plane's thread: one tokio runtime, one worker, and calls that others may make into it.

use std::fs::File;
use std::io::Read;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use thiserror::Error;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::clock;
use crate::deadline::TICK_MS;
use crate::net::{ticker, watch_readable};

/// Calls that may wait for the thread; a caller beyond waits for a place.
const CALLS: usize = 64;

type Call<W> = Box<dyn FnOnce(&Rc<W>) + Send>;

/// A data plane could not be started or does not answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The thread or its runtime could not be made.
    #[error("cannot start the data plane: {0}")]
    Start(String),
    /// The thread has ended.
    #[error("the data plane has stopped")]
    Stopped,
}

/// What runs on a data plane's thread.
pub trait Worker: 'static {
    /// Begin: spawn the worker's tasks.
    fn start(self: &Rc<Self>);
    /// Called every [`TICK_MS`] after the coarse clock was set.
    fn tick(&self);
}

/// The handle that other threads hold.
pub struct WorkerThread<W> {
    calls: Mutex<Option<Sender<Call<W>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<W: Worker> WorkerThread<W> {
    /// Start a thread and make its worker there. What `build` says is wrong is returned.
    pub fn start<F>(name: &str, build: F) -> Result<Self, WorkerError>
    where
        F: FnOnce() -> Result<Rc<W>, String> + Send + 'static,
    {
        let (calls, receiver) = channel(CALLS);
        let (report, started) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // A LocalRuntime, not a LocalSet: that wakes its own thread through an eventfd at every event.
                let mut builder = Builder::new_current_thread();
                builder.enable_all();
                let runtime = match builder.build_local(LocalOptions::default()) {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let _ = report.send(Err(error.to_string()));
                        return;
                    }
                };
                clock::tick();
                runtime.block_on(async move {
                    let made =
                        build().and_then(|worker| Ok((worker, ticker(TICK_MS).map_err(|error| error.to_string())?)));
                    match made {
                        Ok((worker, ticks)) => {
                            let _ = report.send(Ok(()));
                            run(&worker, receiver, ticks).await;
                        }
                        Err(error) => {
                            let _ = report.send(Err(error));
                        }
                    }
                });
            })
            .map_err(|error| WorkerError::Start(error.to_string()))?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self { calls: Mutex::new(Some(calls)), thread: Mutex::new(Some(thread)) }),
            Ok(Err(error)) => Err(WorkerError::Start(error)),
            Err(_) => Err(WorkerError::Stopped),
        }
    }

    /// Run `call` on the thread and wait for its result.
    pub fn call<T, F>(&self, call: F) -> Result<T, WorkerError>
    where
        T: Send + 'static,
        F: FnOnce(&Rc<W>) -> T + Send + 'static,
    {
        let calls = self.calls.lock().map_err(|_| WorkerError::Stopped)?.clone().ok_or(WorkerError::Stopped)?;
        let (reply, answer) = sync_channel(1);
        let job: Call<W> = Box::new(move |worker| {
            let _ = reply.send(call(worker));
        });
        calls.blocking_send(job).map_err(|_| WorkerError::Stopped)?;
        answer.recv().map_err(|_| WorkerError::Stopped)
    }
}

impl<W> WorkerThread<W> {
    /// End the thread; everything it holds is closed.
    pub fn stop(&self) {
        if let Ok(mut calls) = self.calls.lock() {
            calls.take();
        }
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl<W> Drop for WorkerThread<W> {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn run<W: Worker>(worker: &Rc<W>, mut calls: Receiver<Call<W>>, ticks: File) {
    let Ok(ticks) = watch_readable(ticks) else { return };
    worker.start();
    loop {
        tokio::select! {
            ready = ticks.readable() => {
                let Ok(mut ready) = ready else { return };
                // Missed ticks count as one.
                let _ = ticks.get_ref().read(&mut [0; 8]);
                ready.clear_ready();
                clock::tick();
                worker.tick();
            }
            call = calls.recv() => match call {
                Some(call) => call(worker),
                None => return,
            }
        }
    }
}
