//! Any bytes as a PROXY header: a verdict on a prefix is never taken back, and values lie inside it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate_shared::proxy_header::{Parsed, TLV_LISTENER, TLV_UNIQUE_ID, parse, value_of};

fuzz_target!(|input: &[u8]| {
    let whole = parse(input);
    if let Parsed::Complete { length, .. } = whole {
        assert!(length <= input.len());
        assert_eq!(parse(&input[..length]), whole);
        for kind in [TLV_UNIQUE_ID, TLV_LISTENER] {
            assert!(value_of(&input[..length], kind).is_none_or(|value| value.len() + 19 <= length));
        }
    }
    for end in 0..input.len().min(64) {
        match parse(&input[..end]) {
            Parsed::Incomplete => {}
            verdict => assert_eq!(verdict, whole, "after {end} bytes"),
        }
    }
});
