//! Bodies of gRPC-Web in base64: no panic, and how the bytes are cut changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate_appgw::grpc_web::Bridge;
use weirgate_appgw::message::RequestHead;

fuzz_target!(|input: &[u8]| {
    let read = |step: usize| {
        let mut head = RequestHead::default();
        head.headers.push(b"content-type", b"application/grpc-web-text");
        let mut bridge = Bridge::open(&mut head).expect("is one");
        let mut plain = Vec::new();
        let verdict = input.chunks(step).try_for_each(|piece| bridge.request_data(piece, &mut plain));
        verdict.and_then(|()| bridge.request_end()).map(|()| plain)
    };
    assert_eq!(read(input.len().max(1)), read(1));
    assert_eq!(read(input.len().max(1)), read(3));
});
