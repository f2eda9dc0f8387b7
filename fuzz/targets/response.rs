//! Any bytes as a response: no panic, and what is passed on reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate_appgw::http1::{Departure, HeadScan, MAX_FIELDS, parse_response, response_head};
use weirgate_appgw::message::{Framing, ResponseHead};

fuzz_target!(|input: &[u8]| {
    let Some((&first, input)) = input.split_first() else { return };
    let to_head = first & 1 == 1;
    let mut head = ResponseHead::default();
    let Ok(Some(length)) = parse_response(input, &mut HeadScan::default(), to_head, &mut head) else { return };
    assert!(length <= input.len());
    let framing = match head.framing {
        Framing::UntilClose => Framing::Chunked,
        framing => framing,
    };
    let mut wire = Vec::new();
    response_head(&mut wire, &head, Departure { framing, keep_alive: true, http10: false });
    let mut again = ResponseHead::default();
    let verdict = parse_response(&wire, &mut HeadScan::default(), to_head, &mut again);
    // What is written anew may take a head that was just within the reader's limits beyond them.
    if wire.len() <= 60 * 1024 && head.headers.iter().count() < MAX_FIELDS {
        assert_eq!(verdict, Ok(Some(wire.len())), "{}", String::from_utf8_lossy(&wire));
        assert_eq!(again.status, head.status);
    }
});
