//! Finding the end of a head, looking at each byte once however it is cut into reads.

/// How far a head has been looked through.
#[derive(Debug, Default, Clone, Copy)]
pub struct HeadScan {
    seen: usize,
}

/// The line structure is broken: a bare CR or LF (RFC 9112 §2.2).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BareLineBreak;

impl HeadScan {
    /// The length of the head that `input` begins with, once its empty line is there.
    pub(super) fn find_end(&mut self, input: &[u8]) -> Result<Option<usize>, BareLineBreak> {
        for offset in memchr::memchr_iter(b'\n', &input[self.seen..]) {
            let at = self.seen + offset;
            if at == 0 || input[at - 1] != b'\r' {
                return Err(BareLineBreak);
            }
            if at >= 3 && input[at - 3..at - 1] == *b"\r\n" {
                let end = at + 1;
                self.seen = 0;
                let head = &input[..end];
                // Every LF follows a CR; equal counts mean that every CR is followed by an LF too.
                let returns = memchr::memchr_iter(b'\r', head).count();
                return if returns == memchr::memchr_iter(b'\n', head).count() {
                    Ok(Some(end))
                } else {
                    Err(BareLineBreak)
                };
            }
        }
        self.seen = input.len();
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cutting_the_input_changes_nothing(
            pieces in prop::collection::vec(prop::sample::select(vec!["a", "\r\n", "\r", "\n", "x: y"]), 0..30),
            cuts in prop::collection::vec(1usize..6, 0..60),
        ) {
            let input = pieces.concat().into_bytes();
            let whole = HeadScan::default().find_end(&input);
            let mut scan = HeadScan::default();
            let (mut length, mut found) = (0, Ok(None));
            for cut in cuts.into_iter().chain(std::iter::repeat(3)) {
                length = (length + cut).min(input.len());
                found = scan.find_end(&input[..length]);
                if found != Ok(None) || length == input.len() {
                    break;
                }
            }
            prop_assert_eq!(found, whole);
        }
    }
}
