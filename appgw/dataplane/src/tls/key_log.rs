//! `danger_key_log`: the keys of TLS connections, one a line, in the form that NSS made and Wireshark reads.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use rustls::KeyLog;

/// Appends lines to a file.
#[derive(Debug)]
pub(crate) struct KeyLogWriter {
    path: String,
    file: File,
}

impl KeyLogWriter {
    pub(crate) fn open(path: &str) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        // One that was there already may be open to all.
        file.set_permissions(Permissions::from_mode(0o600))?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

impl KeyLog for KeyLogWriter {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = String::with_capacity(label.len() + 2 * (client_random.len() + secret.len()) + 3);
        line.push_str(label);
        for bytes in [client_random, secret] {
            line.push(' ');
            for byte in bytes {
                let _ = write!(line, "{byte:02x}");
            }
        }
        line.push('\n');
        // One call a line, so that the lines of several processes do not mix. A full disk stops no client.
        let _ = (&self.file).write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn lines_are_appended_for_the_owner_alone() {
        let path = std::env::temp_dir().join(format!("weirgate-key-log-{}", std::process::id()));
        let text = path.to_str().expect("UTF-8");
        for number in 1..=2u8 {
            let log = KeyLogWriter::open(text).expect("opens");
            log.log("CLIENT_RANDOM", &[0, number], &[0xab]);
        }
        let written = std::fs::read_to_string(&path).expect("is there");
        let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
        std::fs::remove_file(&path).expect("is there");
        assert_eq!(written, "CLIENT_RANDOM 0001 ab\nCLIENT_RANDOM 0002 ab\n");
        assert_eq!(mode & 0o777, 0o600);
    }
}
