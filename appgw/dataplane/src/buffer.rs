//! Read buffers: borrowed from a thread's spares while there are bytes, given back when there are none.

use std::cell::RefCell;

/// What one read can take, and the usual buffer's size.
const READ_BYTES: usize = 16 * 1024;
const SPARES: usize = 256;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes read but not yet taken. Holds no memory while it is empty.
#[derive(Default)]
pub(crate) struct Buffer {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Take `count` bytes off the front; memory goes back when nothing is left.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.end {
            self.release();
        }
    }

    /// Room to read into; the caller tells with [`Self::filled`] how much was.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.data.is_empty() {
            self.data = POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; READ_BYTES]);
        }
        if self.end == self.data.len() {
            if self.start > 0 {
                self.data.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                // A head longer than one buffer; the head limits bound this.
                self.data.resize(self.data.len() * 2, 0);
            }
        }
        &mut self.data[self.end..]
    }

    pub(crate) fn filled(&mut self, count: usize) {
        self.end += count;
        if self.is_empty() {
            self.release();
        }
    }

    fn release(&mut self) {
        (self.start, self.end) = (0, 0);
        let data = std::mem::take(&mut self.data);
        if data.len() == READ_BYTES {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < SPARES {
                    pool.push(data);
                }
            });
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_and_an_empty_buffer_holds_nothing() {
        let mut buffer = Buffer::default();
        let mut expected = Vec::new();
        for round in 0..5u8 {
            let space = buffer.space();
            let count = space.len().min(10_000);
            space[..count].fill(round);
            buffer.filled(count);
            expected.extend(std::iter::repeat_n(round, count));
            buffer.consume(100);
            expected.drain(..100);
            assert_eq!(buffer.bytes(), expected);
        }
        buffer.consume(buffer.len());
        assert!(buffer.is_empty() && buffer.data.is_empty());
    }
}
