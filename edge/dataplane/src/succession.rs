//! One edge process gives way to the next: who serves, who tells what, and what happens when it fails.
//!
//! The old process stops accepting and tells the new one of every place in a limit that a connection handed
//! over still holds, and of every UDP session, with its socket. The new one takes all of it, begins to serve,
//! and says so; only then the old one lets go. Until that answer the old process can serve on as if nothing
//! had been: it has kept everything. Between the two moments the kernel's queues hold what comes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use weirgate_shared::net::{Poller, SentFd, recv_with_fd, send_message, send_with_fd};
use weirgate_shared::poll_thread::PollThread;
use weirgate_shared::succession::{MESSAGE_BYTES, Message, PlaceRecord, REFUSED, SessionRecord, TAKEN, VERSION};
use weirgate_shared::worker::{WorkerError, WorkerThread};

use crate::acceptor::Acceptor;
use crate::datagrams::Datagrams;
use crate::plane::Edge;

/// How long either side waits for the other one.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the old process waits when the new one does not read fast enough.
const PAUSE: Duration = Duration::from_micros(500);

/// The threads of an edge process.
#[derive(Clone)]
pub(crate) struct Threads {
    pub(crate) acceptor: Arc<PollThread<Acceptor>>,
    pub(crate) relay: Arc<WorkerThread<Edge>>,
    pub(crate) datagrams: Arc<PollThread<Datagrams>>,
    /// Nothing is served yet: a predecessor does.
    pub(crate) standby: Arc<AtomicBool>,
}

impl Threads {
    /// Serve.
    pub(crate) fn resume(&self) -> Result<Result<(), String>, WorkerError> {
        let results = [
            self.acceptor.call(Acceptor::resume)?,
            self.relay.call(Edge::resume)?,
            self.datagrams.call(Datagrams::resume)?,
        ];
        self.standby.store(false, Ordering::Relaxed);
        Ok(results.into_iter().collect())
    }

    /// Give way to the process at the other end; an error says why it has not taken over, and all is as before.
    pub(crate) fn hand_over(&self, socket: OwnedFd) -> Result<Result<(), String>, WorkerError> {
        let records = self.acceptor.call(|acceptor| {
            acceptor.pause();
            acceptor.records()
        })?;
        self.relay.call(|edge| edge.pause())?;
        let told = self.datagrams.call(move |datagrams| {
            let told = tell(datagrams, records, socket.as_fd());
            if told.is_ok() {
                datagrams.succeed();
            }
            told
        })?;
        match told {
            Ok(()) => self.acceptor.call(|acceptor| acceptor.succeed())?,
            Err(error) => {
                let resumed = self.acceptor.call(Acceptor::resume)?.and(self.relay.call(Edge::resume)?);
                return Ok(Err(resumed.err().map_or(error.clone(), |worse| format!("{error}; then: {worse}"))));
            }
        }
        Ok(Ok(()))
    }

    /// Take over from the process at the other end, on a thread of its own. Without its last word this
    /// process stays in waiting, until the supervisor ends it.
    pub(crate) fn take_over(self, socket: OwnedFd) -> std::io::Result<()> {
        let work = move || {
            let Ok(Some(heard)) = hear(socket.as_fd()) else { return };
            let answer = match heard.and_then(|heard| self.inherit(heard)) {
                Ok(()) => TAKEN.to_vec(),
                Err(error) => [&[REFUSED], error.as_bytes()].concat(),
            };
            let _ = send_message(socket.as_fd(), &answer);
        };
        std::thread::Builder::new().name("succession".to_owned()).spawn(work).map(drop)
    }

    fn inherit(&self, heard: Heard) -> Result<(), String> {
        let stopped = |error: WorkerError| error.to_string();
        let Heard { places, sessions } = heard;
        let lent = self.acceptor.call(move |acceptor| acceptor.inherit(places)).map_err(stopped)?;
        self.relay.call(move |edge| edge.inherit(lent)).map_err(stopped)?;
        let taken = self.datagrams.call(move |datagrams| {
            sessions.into_iter().try_for_each(|(record, socket)| datagrams.inherit(&record, socket))
        });
        taken.map_err(stopped)??;
        self.resume().map_err(stopped)?
    }
}

/// Everything that a predecessor tells.
#[derive(Default)]
struct Heard {
    places: Vec<PlaceRecord>,
    sessions: Vec<(SessionRecord, OwnedFd)>,
}

/// The old process's side, on the thread of its sessions, which stands still meanwhile.
fn tell(datagrams: &Datagrams, places: Vec<PlaceRecord>, socket: BorrowedFd<'_>) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    say(socket, &Message::Begin { version: VERSION }, None, until)?;
    for record in places {
        say(socket, &Message::Place(record), None, until)?;
    }
    datagrams.hand_over(|record, session| say(socket, &Message::Session(record), Some(session), until))?;
    say(socket, &Message::End, None, until)?;
    let mut answer = [0; MESSAGE_BYTES];
    match wait(socket, &mut answer).map_err(|error| format!("the new process has ended: {error}"))? {
        None | Some((0, _)) => Err("the new process did not answer".to_owned()),
        Some((length, _)) if answer[..length] == *TAKEN => Ok(()),
        Some((length, _)) => {
            Err(format!("the new process refused: {}", String::from_utf8_lossy(&answer[1.min(length)..length])))
        }
    }
}

/// Send one message, and wait where the other side has not read the earlier ones.
fn say(socket: BorrowedFd<'_>, message: &Message, fd: Option<BorrowedFd<'_>>, until: Instant) -> Result<(), String> {
    let bytes = message.encode();
    loop {
        let sent = match fd {
            Some(fd) => send_with_fd(socket, &bytes, fd),
            None => match send_message(socket, &bytes) {
                Ok(()) => Ok(SentFd::Sent),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(SentFd::Full),
                Err(error) => Err(error),
            },
        };
        match sent {
            Ok(SentFd::Sent) => return Ok(()),
            Ok(SentFd::Full) if Instant::now() < until => std::thread::sleep(PAUSE),
            Ok(SentFd::Full) => return Err("the new process does not listen".to_owned()),
            Ok(SentFd::Gone) => return Err("the new process has ended".to_owned()),
            Err(error) => return Err(format!("telling the new process: {error}")),
        }
    }
}

/// The new process's side: `None` = the other end was closed before all was told; an error inside = refuse.
fn hear(socket: BorrowedFd<'_>) -> std::io::Result<Option<Result<Heard, String>>> {
    let (mut heard, mut buffer) = (Heard::default(), [0; MESSAGE_BYTES]);
    let poller = Poller::new()?;
    poller.add(socket, 0)?;
    let mut known = false;
    loop {
        let (length, fd) = match recv_with_fd(socket, &mut buffer) {
            Ok((0, _)) => return Ok(None),
            Ok(message) => message,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                poller.wait(None, &mut Vec::new())?;
                continue;
            }
            Err(error) => return Err(error),
        };
        match (Message::decode(&buffer[..length]), fd) {
            (Ok(Message::Begin { version: VERSION }), _) => known = true,
            (Ok(Message::Begin { version }), _) => {
                return Ok(Some(Err(format!("it speaks version {version}, wanted {VERSION}"))));
            }
            _ if !known => return Ok(Some(Err("it did not say its version".to_owned()))),
            (Ok(Message::Place(record)), _) => heard.places.push(record),
            (Ok(Message::Session(record)), Some(session)) => heard.sessions.push((record, session)),
            // The kernel drops an fd for which there is no room.
            (Ok(Message::Session(_)), None) => return Ok(Some(Err("out of file descriptors".to_owned()))),
            (Ok(Message::End), _) => return Ok(Some(Ok(heard))),
            (Err(error), _) => return Ok(Some(Err(format!("a message that is none: {error}")))),
        }
    }
}

/// One message, or `None` when none comes in time.
fn wait(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> std::io::Result<Option<(usize, Option<OwnedFd>)>> {
    let (poller, mut ready) = (Poller::new()?, Vec::new());
    poller.add(socket, 0)?;
    poller.wait(Some(PATIENCE), &mut ready)?;
    if ready.is_empty() { Ok(None) } else { recv_with_fd(socket, buffer).map(Some) }
}
