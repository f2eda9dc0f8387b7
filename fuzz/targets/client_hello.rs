//! Any bytes as a client hello: the verdict does not depend on how they arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate_shared::client_hello::{HelloReader, MAX_BYTES, Progress};

fuzz_target!(|input: &[u8]| {
    let whole = HelloReader::default().read(input);
    if let Progress::Complete(hello) = &whole {
        let name = hello.server_name.as_deref().unwrap_or("a");
        assert!(!name.is_empty() && name.len() <= 253 && !name.ends_with('.'));
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
        assert!(hello.alpn.iter().all(|protocol| !protocol.is_empty()));
    }
    // In pieces whose size the input itself chooses, as well as byte by byte at the beginning.
    let step = usize::from(input.first().copied().unwrap_or(1) ^ input.last().copied().unwrap_or(1)).max(1);
    let mut reader = HelloReader::default();
    let cuts = (0..input.len().min(64)).chain((64..input.len()).step_by(step)).chain([input.len()]);
    for end in cuts {
        match reader.read(&input[..end]) {
            Progress::Incomplete(total) => assert!(total > end && total <= MAX_BYTES),
            verdict => {
                assert_eq!(verdict, whole, "after {end} bytes");
                return;
            }
        }
    }
    assert!(matches!(whole, Progress::Incomplete(_)));
});
