//! The watch on HTTP/2 frames: it never panics, and how the bytes are cut changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate_appgw::http2::{FrameWatch, PREFACE};

fuzz_target!(|input: &[u8]| {
    let judge = |step: usize| {
        let mut watch = FrameWatch::new(50, 0);
        watch.received(PREFACE, 0).expect("the preface is no flood");
        let verdict = input.chunks(step).try_for_each(|piece| watch.received(piece, 0));
        (verdict, watch.take_bad_trailers(1))
    };
    assert_eq!(judge(input.len().max(1)), judge(1));
    let answers = |step: usize| {
        let mut watch = FrameWatch::of_answers();
        input.chunks(step).try_for_each(|piece| watch.received(piece, 0))
    };
    assert_eq!(answers(input.len().max(1)), answers(1));
});
