//! The access log's buffer on a data-plane thread: lines are collected and sent to the writer in chunks.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use crate::clock;
use crate::json::{push_string, push_u64};
use crate::log_writer::LogWriter;
use crate::snapshot::Logs;

const CHUNK_BYTES: usize = 32 * 1024;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// The "combined" line of Apache and nginx.
    Combined,
}

/// One thread's access log.
pub struct AccessLog {
    settings: Logs,
    format: Format,
    writer: Option<LogWriter>,
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u64>,
    lost_before: u64,
    stamp: RefCell<(u64, String, String)>,
}

impl AccessLog {
    /// The log that `settings` describe; `previous` is kept where nothing changed.
    pub fn open(settings: &Logs, previous: Option<&Rc<Self>>) -> io::Result<Rc<Self>> {
        if let Some(previous) = previous
            && previous.settings == *settings
        {
            return Ok(Rc::clone(previous));
        }
        let writer = if settings.access_to == "off" { None } else { Some(LogWriter::start(&settings.access_to)?) };
        Ok(Rc::new(Self {
            settings: settings.clone(),
            format: if settings.access_format == "combined" { Format::Combined } else { Format::Json },
            writer,
            buffer: RefCell::default(),
            lines: Cell::new(0),
            lost_before: previous.map_or(0, |log| log.lost()),
            stamp: RefCell::default(),
        }))
    }

    /// Whether anything is written at all.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.writer.is_some()
    }

    /// How lines look.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Write one line; `write` appends it without the line feed.
    pub fn line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.enabled() {
            return;
        }
        let full = {
            let mut buffer = self.buffer.borrow_mut();
            if buffer.capacity() == 0 {
                buffer.reserve(CHUNK_BYTES + 4096);
            }
            write(&mut buffer);
            buffer.push(b'\n');
            buffer.len() >= CHUNK_BYTES
        };
        self.lines.set(self.lines.get() + 1);
        if full {
            self.flush();
        }
    }

    /// Send what is collected to the writer.
    pub fn flush(&self) {
        let lines = self.lines.take();
        if lines == 0 {
            return;
        }
        let bytes = std::mem::take(&mut *self.buffer.borrow_mut());
        if let Some(writer) = &self.writer {
            writer.send(bytes, lines);
        }
    }

    /// Whether lines are collected that were not sent yet.
    #[must_use]
    pub fn pending(&self) -> bool {
        self.lines.get() > 0
    }

    /// Lines that were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost_before + self.writer.as_ref().map_or(0, LogWriter::lost)
    }

    /// Append the wall-clock time: RFC 3339 in UTC with milliseconds, or Apache's form.
    pub fn push_time(&self, out: &mut Vec<u8>, format: Format) {
        let now = clock::wall_ms();
        let (second, milli) = (now / 1000, now % 1000);
        let mut stamp = self.stamp.borrow_mut();
        if stamp.0 != second || stamp.1.is_empty() {
            *stamp = (second, rfc3339(second), apache(second));
        }
        match format {
            Format::Json => {
                out.extend_from_slice(stamp.1.as_bytes());
                out.extend_from_slice(&[
                    b'.',
                    b'0' + (milli / 100) as u8,
                    b'0' + (milli / 10 % 10) as u8,
                    b'0' + (milli % 10) as u8,
                    b'Z',
                ]);
            }
            Format::Combined => out.extend_from_slice(stamp.2.as_bytes()),
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Append `,"name":"text"`.
pub fn push_text_field(out: &mut Vec<u8>, name: &str, text: &[u8]) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    push_string(out, text);
}

/// Append `,"name":number`.
pub fn push_number_field(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    push_u64(out, value);
}

/// Days since the epoch → year, month, day (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

fn rfc3339(second: u64) -> String {
    let (year, month, day) = civil(second / 86_400);
    let (hour, minute, second) = (second / 3600 % 24, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

fn apache(second: u64) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (year, month, day) = civil(second / 86_400);
    let (hour, minute, second) = (second / 3600 % 24, second / 60 % 60, second % 60);
    format!("{day:02}/{}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000", MONTHS[month as usize - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days_and_centuries() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00");
        assert_eq!(rfc3339(951_827_696), "2000-02-29T12:34:56");
        assert_eq!(rfc3339(4_107_542_399), "2100-02-28T23:59:59");
        assert_eq!(apache(1_772_323_200), "01/Mar/2026:00:00:00 +0000");
    }
}
