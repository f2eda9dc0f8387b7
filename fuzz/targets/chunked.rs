//! Any bytes as a chunked body: the same data and the same end however the bytes are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate_appgw::http1::{Chunked, Event};

fn decode(input: &[u8], step: usize) -> Option<(Vec<u8>, usize)> {
    let (mut decoder, mut data, mut at, mut there) = (Chunked::default(), Vec::new(), 0, 0);
    loop {
        match decoder.next(&input[at..there]).ok()? {
            Event::Data { skip, length } => {
                data.extend_from_slice(&input[at + skip..at + skip + length]);
                at += skip + length;
            }
            Event::More { skip } => {
                at += skip;
                if there == input.len() {
                    return None;
                }
                there = (there + step).min(input.len());
            }
            Event::End { skip } => return Some((data, at + skip)),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, input)) = input.split_first() else { return };
    let whole = decode(input, input.len().max(1));
    assert_eq!(whole, decode(input, usize::from(first % 7) + 1));
    if let Some((data, length)) = whole {
        assert!(length <= input.len() && data.len() < length);
    }
});
