//! Writing logs off the hot path: a thread, a bounded queue, losses counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use crate::net::yield_to_running_threads;

/// Chunks that may wait; with 32 KiB chunks the queue holds 8 MiB at the most.
const QUEUE_CHUNKS: usize = 256;
/// What a pipe takes in one go (`PIPE_BUF`): several processes write to one standard output, and
/// larger writes could be torn apart by each other's.
const PIPE_BYTES: usize = 4096;
const END_WITHIN: Duration = Duration::from_millis(300);
const REOPEN_EVERY: Duration = Duration::from_secs(1);

struct Chunk {
    bytes: Vec<u8>,
    lines: u64,
}

/// A log's writing thread.
pub struct LogWriter {
    queue: Option<SyncSender<Chunk>>,
    lost: Arc<AtomicU64>,
    done: Receiver<()>,
}

enum Target {
    Stdout,
    Stderr,
    Path(PathBuf),
}

impl LogWriter {
    /// A writer to `stdout`, `stderr` or a file's path (created, appended to).
    ///
    /// A file that cannot be opened now is tried again every second; its lines are counted as lost.
    pub fn start(to: &str) -> io::Result<Self> {
        let target = match to {
            "stdout" => Target::Stdout,
            "stderr" => Target::Stderr,
            path => Target::Path(PathBuf::from(path)),
        };
        let (queue, chunks) = sync_channel(QUEUE_CHUNKS);
        let lost = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&lost);
        let (ended, done) = sync_channel(1);
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            yield_to_running_threads();
            run(&target, &chunks, &count);
            let _ = ended.send(());
        })?;
        Ok(Self { queue: Some(queue), lost, done })
    }

    /// Queue whole lines; when the queue is full they are counted as lost.
    pub fn send(&self, bytes: Vec<u8>, lines: u64) {
        let Some(queue) = &self.queue else { return };
        if let Err(TrySendError::Full(chunk) | TrySendError::Disconnected(chunk)) =
            queue.try_send(Chunk { bytes, lines })
        {
            self.lost.fetch_add(chunk.lines, Ordering::Relaxed);
        }
    }

    /// Lines lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for LogWriter {
    /// Let the thread write what is queued and end. A log that nobody reads (a full pipe) is left behind
    /// after a moment: it must not hold up the data plane that drops it.
    fn drop(&mut self) {
        drop(self.queue.take());
        let _ = self.done.recv_timeout(END_WITHIN);
    }
}

fn run(target: &Target, chunks: &Receiver<Chunk>, lost: &AtomicU64) {
    match target {
        Target::Stdout => drain(chunks, lost, |chunk| {
            let written = pieces(&chunk.bytes)
                .try_for_each(|piece| io::stdout().write_all(piece).and_then(|()| io::stdout().flush()));
            if written.is_ok() { 0 } else { chunk.lines }
        }),
        Target::Stderr => drain(chunks, lost, |chunk| {
            let written = pieces(&chunk.bytes).try_for_each(|piece| io::stderr().write_all(piece));
            if written.is_ok() { 0 } else { chunk.lines }
        }),
        Target::Path(path) => {
            let mut file = ReopenedFile::new(path);
            drain(chunks, lost, |chunk| file.write(&chunk.bytes));
        }
    }
}

/// Whole lines of at most [`PIPE_BYTES`] together; a longer line is a piece of its own.
fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let window = &bytes[..bytes.len().min(PIPE_BYTES)];
        let end =
            memchr::memrchr(b'\n', window).or_else(|| memchr::memchr(b'\n', bytes)).map_or(bytes.len(), |at| at + 1);
        let (piece, rest) = bytes.split_at(end);
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Write chunk after chunk; `write` says how many lines were lost.
fn drain(chunks: &Receiver<Chunk>, lost: &AtomicU64, mut write: impl FnMut(&Chunk) -> u64) {
    for chunk in chunks {
        lost.fetch_add(write(&chunk), Ordering::Relaxed);
    }
}

/// A file that follows its path: after a rotation the next lines go to the new file.
struct ReopenedFile<'a> {
    path: &'a Path,
    file: Option<File>,
    checked: Instant,
    /// The disk was full in the middle of a line, which must not run into the next one.
    torn: bool,
}

impl<'a> ReopenedFile<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, file: open(path).ok(), checked: Instant::now(), torn: false }
    }

    /// Append whole lines; says how many of them did not get there whole.
    fn write(&mut self, bytes: &[u8]) -> u64 {
        if self.checked.elapsed() >= REOPEN_EVERY {
            self.checked = Instant::now();
            let current = self.file.as_ref().and_then(|file| file.metadata().ok()).map(|m| (m.dev(), m.ino()));
            if current.is_none() || current != self.path.metadata().ok().map(|m| (m.dev(), m.ino())) {
                self.file = open(self.path).ok();
                self.torn = false;
            }
        }
        let Some(file) = &mut self.file else { return lines(bytes) };
        if self.torn {
            match file.write(b"\n") {
                Ok(1) => self.torn = false,
                _ => return lines(bytes),
            }
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match file.write(rest) {
                Ok(count @ 1..) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        let written = &bytes[..bytes.len() - rest.len()];
        self.torn = written.last().is_some_and(|&last| last != b'\n');
        lines(rest)
    }
}

fn lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_lines_that_a_pipe_takes_in_one_go() {
        let text = [b"short\n".repeat(1000), vec![b'x'; 5000], b"\nlast\n".to_vec()].concat();
        let all: Vec<&[u8]> = pieces(&text).collect();
        assert_eq!(all.concat(), text);
        assert!(all.iter().all(|piece| piece.ends_with(b"\n")));
        assert!(all.iter().filter(|piece| piece.len() > PIPE_BYTES).count() == 1, "only the long line");
        assert_eq!(pieces(b"").count(), 0);
    }

    #[test]
    fn lines_reach_the_file_and_those_that_cannot_are_counted() {
        let folder = std::env::temp_dir().join(format!("weirgate-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("makes a folder");
        let path = folder.join("access.log");
        let writer = LogWriter::start(path.to_str().expect("UTF-8")).expect("starts");
        writer.send(b"one\ntwo\n".to_vec(), 2);
        drop(writer);
        assert_eq!(std::fs::read(&path).expect("was written"), b"one\ntwo\n");

        let writer = LogWriter::start("/nonexistent/folder/access.log").expect("starts");
        let lost = Arc::clone(&writer.lost);
        writer.send(b"x\ny\n".to_vec(), 2);
        drop(writer);
        assert_eq!(lost.load(Ordering::Relaxed), 2);
        std::fs::remove_dir_all(folder).expect("cleans up");
    }
}
