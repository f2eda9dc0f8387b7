//! Any bytes as a request: no panic, no claim beyond the input, and what is forwarded reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate_appgw::http1::{HeadScan, Limits, PathPolicy, parse_request, request_head};
use weirgate_appgw::message::RequestHead;

const LIMITS: Limits = Limits { header_bytes: 16 * 1024, header_count: 64, uri_bytes: 4096, paths: PathPolicy::KEEP };

fuzz_target!(|input: &[u8]| {
    let mut head = RequestHead::default();
    let whole = parse_request(input, &mut HeadScan::default(), &LIMITS, &mut head);
    let Ok(Some(length)) = whole else { return };
    assert!(length <= input.len());

    // However the bytes are cut, the verdict is the same.
    let (mut scan, mut again) = (HeadScan::default(), RequestHead::default());
    for end in 1..length {
        assert_eq!(parse_request(&input[..end], &mut scan, &LIMITS, &mut again), Ok(None));
    }

    let mut wire = Vec::new();
    request_head(&mut wire, &head, |_| false, &[]);
    // What is written anew (Host, framing, upgrade) may come on top of what was read.
    let wide = Limits { header_bytes: 64 * 1024, header_count: LIMITS.header_count + 4, ..LIMITS };
    // HTTP/1.0 may come without Host; what leaves is 1.1, and then says so with an empty one.
    if head.authority().is_empty() {
        return;
    }
    let verdict = parse_request(&wire, &mut HeadScan::default(), &wide, &mut again);
    assert_eq!(verdict, Ok(Some(wire.len())), "{}", String::from_utf8_lossy(&wire));
    assert_eq!((again.method(), again.path(), again.query()), (head.method(), head.path(), head.query()));
    assert_eq!((again.authority(), again.framing), (head.authority(), head.framing));
});
