//! Cases for `client_hello`: what is read, what is refused, and that no cut or noise changes a verdict.

use super::*;
use proptest::prelude::*;

/// An extension.
fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(content.len() as u16).to_be_bytes(), content].concat()
}

/// A list of two-byte length.
fn list(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes()[..], content].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME, &list(&[&[HOST_NAME][..], &list(name)].concat()))
}

fn alpn(names: &[&[u8]]) -> Vec<u8> {
    let inside: Vec<u8> = names.iter().flat_map(|name| [&[name.len() as u8][..], name].concat()).collect();
    extension(ALPN, &list(&inside))
}

/// The message, without its records.
fn message(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([32]);
    body.extend([9; 32]);
    body.extend([0, 4, 0x0a, 0x0a, 0x13, 0x01]); // GREASE and a suite
    body.extend([1, 0]);
    body.extend(list(extensions));
    with_header(&body)
}

fn with_header(body: &[u8]) -> Vec<u8> {
    [&[CLIENT_HELLO][..], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

/// The message in records of `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &list(part)].concat()).collect()
}

fn read(bytes: &[u8]) -> Progress {
    HelloReader::default().read(bytes)
}

fn complete(extensions: &[u8]) -> ClientHello {
    match read(&records(&message(extensions), MAX_RECORD)) {
        Progress::Complete(hello) => hello,
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_and_protocols_are_read() {
    let hello = complete(&[extension(0x2a2a, b""), sni(b"Shop.Example."), alpn(&[b"h2", b"http/1.1"])].concat());
    assert_eq!(hello.server_name.as_deref(), Some("shop.example"));
    assert_eq!(hello.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert_eq!(hello.legacy_version, 0x0303);
    assert_eq!(complete(&alpn(&[b"\x8a\x8a", b"h2"])).alpn, [b"h2".to_vec()], "GREASE");
    assert_eq!(complete(&extension(0xfe0d, &[0; 200])).server_name, None, "ECH without an outer name");
    let outer = [extension(0xfe0d, &[0; 200]), sni(b"public.example")].concat();
    assert_eq!(complete(&outer).server_name.as_deref(), Some("public.example"), "ECH with one");
    let other_type = list(&[&[9][..], &list(b"x"), &[HOST_NAME], &list(b"a.b")].concat());
    assert_eq!(complete(&extension(SERVER_NAME, &other_type)).server_name.as_deref(), Some("a.b"));
    let longest = [&b"a".repeat(49)[..], b"."].concat().repeat(5);
    assert!(complete(&sni(&[&longest[..], b"xyz"].concat())).server_name.is_some(), "253 bytes");
}

#[test]
fn a_hello_without_extensions_is_one() {
    let mut body = vec![3, 1];
    body.extend([0; 32]);
    body.extend([0, 0, 2, 0, 5, 1, 0]);
    let expected = ClientHello { legacy_version: 0x0301, ..ClientHello::default() };
    assert_eq!(read(&records(&with_header(&body), 100)), Progress::Complete(expected));
}

#[test]
fn the_longest_is_read_in_any_number_of_records_and_one_byte_more_is_not() {
    let base = message(&[sni(b"a.example"), extension(21, b"")].concat()).len() - MESSAGE_HEADER;
    let padded = |length: usize| message(&[sni(b"a.example"), extension(21, &vec![0; length - base])].concat());
    let longest = padded(MAX_MESSAGE_BYTES);
    for size in [MAX_RECORD, 1400, 100] {
        assert!(matches!(read(&records(&longest, size)), Progress::Complete(_)), "records of {size}");
    }
    assert_eq!(read(&records(&padded(MAX_MESSAGE_BYTES + 1), MAX_RECORD)), Progress::Invalid(Malformed::TooLong));
    assert_eq!(read(&records(&longest, 1)), Progress::Invalid(Malformed::TooLong), "thousands of records");
    let key_share = message(&[sni(b"pq.example"), extension(51, &[1; 1300])].concat());
    for size in [1, 2, 5, 600] {
        assert!(matches!(read(&records(&key_share, size)), Progress::Complete(_)), "records of {size}");
    }
}

#[test]
fn what_is_not_a_client_hello_is_refused_as_soon_as_that_is_certain() {
    let whole = message(&sni(b"a.example"));
    let body = &whole[MESSAGE_HEADER..];
    let record = |content: &[u8]| records(content, MAX_RECORD);
    let broken = |extensions: &[u8]| record(&message(extensions));
    let nul = [&b"a.example\0"[..], b".evil"].concat();
    let cases: [(&str, Vec<u8>, Malformed); 24] = [
        ("HTTP", b"GET / HTTP/1.1\r\n".to_vec(), Malformed::Record),
        ("its first byte", b"G".to_vec(), Malformed::Record),
        ("SSL 2", vec![0x80, 0x2e, 1, 3, 1], Malformed::Record),
        ("major version 2", vec![22, 2], Malformed::Record),
        ("a PROXY header", b"PROXY TCP4 1.2.3.4".to_vec(), Malformed::Record),
        ("an empty record", vec![22, 3, 1, 0, 0], Malformed::Record),
        ("a record over 16 KB", vec![22, 3, 1, 0x40, 1], Malformed::Record),
        ("a ServerHello", record(&[2, 0, 0, 1, 0]), Malformed::Message),
        ("16 MB announced", record(&[1, 0xff, 0xff, 0xff]), Malformed::TooLong),
        ("a hello of nothing", record(&with_header(b"")), Malformed::Lengths),
        ("cut inside", record(&with_header(&body[..60])), Malformed::Lengths),
        ("a byte behind the extensions", record(&with_header(&[body, b"x"].concat())), Malformed::Lengths),
        ("an alert between records", [&records(&whole[..9], 9)[..], &[21, 3, 1, 0, 2]].concat(), Malformed::Record),
        ("SNI twice", broken(&[sni(b"a.example"), sni(b"b.example")].concat()), Malformed::Extension),
        ("ALPN twice", broken(&[alpn(&[b"h2"]), alpn(&[b"h2"])].concat()), Malformed::Extension),
        (
            "two host names",
            {
                let both = [&[HOST_NAME][..], &list(b"a"), &[HOST_NAME], &list(b"b")].concat();
                broken(&extension(SERVER_NAME, &list(&both)))
            },
            Malformed::Extension,
        ),
        ("an empty SNI", broken(&extension(SERVER_NAME, b"")), Malformed::Lengths),
        ("an empty SNI list", broken(&extension(SERVER_NAME, &[0, 0])), Malformed::Extension),
        ("an empty name", broken(&sni(b"")), Malformed::Extension),
        ("an empty label", broken(&sni(b"a..example")), Malformed::Extension),
        ("a NUL in the name", broken(&sni(&nul)), Malformed::Extension),
        ("a name of 254", broken(&sni(&[&b"a.".repeat(126)[..], b"bc"].concat())), Malformed::Extension),
        ("an SNI list past its end", broken(&extension(SERVER_NAME, &[0, 9, 0, 0, 1, b'a'])), Malformed::Lengths),
        ("an empty protocol", broken(&alpn(&[b""])), Malformed::Extension),
    ];
    for (what, bytes, why) in cases {
        assert_eq!(read(&bytes), Progress::Invalid(why), "{what}");
    }
}

/// Feed `bytes` in pieces that end at `cuts`; each verdict but the last must be a sound `Incomplete`.
fn in_pieces(bytes: &[u8], cuts: &[usize]) -> Result<Progress, TestCaseError> {
    let mut reader = HelloReader::default();
    for &end in cuts {
        match reader.read(&bytes[..end]) {
            Progress::Incomplete(total) => prop_assert!(total > end, "wants {} of {}", total, end),
            verdict => return Ok(verdict),
        }
    }
    Ok(reader.read(bytes))
}

proptest! {
    #[test]
    fn the_verdict_does_not_depend_on_how_the_bytes_arrive(
        name in "[a-z]{1,20}(\\.[a-z]{1,20}){0,3}", size in 1usize..400, padding in 0usize..2000,
        mut cuts in prop::collection::vec(0usize..4000, 0..20), flip in prop::option::of((0usize..3000, any::<u8>())),
    ) {
        let mut bytes = records(&message(&[extension(21, &vec![0; padding]), sni(name.as_bytes())].concat()), size);
        if let Some((at, value)) = flip {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        let at_once = read(&bytes);
        if flip.is_none() {
            prop_assert!(matches!(&at_once, Progress::Complete(hello) if hello.server_name.as_deref() == Some(&name)));
        }
        cuts.retain(|&cut| cut <= bytes.len());
        cuts.sort_unstable();
        prop_assert_eq!(in_pieces(&bytes, &cuts)?, at_once.clone());
        let every: Vec<usize> = (0..bytes.len().min(300)).collect();
        prop_assert_eq!(in_pieces(&bytes, &every)?, at_once);
    }

    #[test]
    fn no_bytes_make_it_panic_or_hold_more_than_the_limit(
        prefix in prop::sample::select(vec![&b""[..], &[22, 3, 1], &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]]),
        noise in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let bytes = [prefix, &noise].concat();
        let mut reader = HelloReader::default();
        let verdict = reader.read(&bytes);
        prop_assert!(reader.message.len() <= MAX_MESSAGE_BYTES + MESSAGE_HEADER);
        if let Progress::Incomplete(total) = verdict {
            prop_assert!(total > bytes.len() && total <= MAX_BYTES);
        }
    }
}
