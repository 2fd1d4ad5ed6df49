//! Noise: whatever comes, nothing panics, and nothing that was changed is believed.

use proptest::prelude::*;
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWriteExt as _;

use super::super::csr;
use super::*;

/// One honest chain and what it is held against, made once.
fn honest() -> &'static (Bundles, Vec<Vec<u8>>, Vec<u8>) {
    static HONEST: std::sync::OnceLock<(Bundles, Vec<Vec<u8>>, Vec<u8>)> = std::sync::OnceLock::new();
    HONEST.get_or_init(|| {
        let (_directory, authority) = authority();
        let chain = issue(&authority, "/a").chain().iter().map(|der| der.to_vec()).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        (bundles(&authority), chain, csr::make(&id("/a"), &key).unwrap())
    })
}

fn judge(chain: &[Vec<u8>]) -> Result<Peer, Refusal> {
    let chain: Vec<CertificateDer<'_>> =
        chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    verify(&honest().0, &chain, Role::Client, SystemTime::now())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_byte_anywhere_in_a_chain_is_never_believed(which in 0..2usize, at in any::<usize>(), by in 1..=255u8) {
        let (_, chain, _) = honest();
        let mut chain = chain.clone();
        let at = at % chain[which].len();
        chain[which][at] ^= by;
        prop_assert!(judge(&chain).is_err());
    }

    #[test]
    fn a_changed_byte_anywhere_in_a_request_is_never_signed(at in any::<usize>(), by in 1..=255u8) {
        let (_, _, request) = honest();
        let mut request = request.clone();
        let at = at % request.len();
        request[at] ^= by;
        prop_assert!(csr::read(&request).is_err());
    }

    #[test]
    fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(judge(std::slice::from_ref(&bytes)).is_err());
        prop_assert!(csr::read(&bytes).is_err());
        let list = rustls::pki_types::CertificateRevocationListDer::from(bytes);
        prop_assert!(DomainBundle::new(&domain(), &[], &[list]).is_err());
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_cut_off_or_late_is_refused() {
    let patience = Duration::from_millis(200);
    let read = |bytes: Vec<u8>, close: bool| async move {
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(&bytes).await.unwrap();
        let open = if close {
            drop(theirs);
            None
        } else {
            Some(theirs)
        };
        let read = read_frame::<serde_json::Value>(&mut ours, patience).await;
        drop(open);
        read
    };
    let frame = |text: &str| [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat();
    assert_eq!(read(frame("[1]"), false).await.unwrap(), serde_json::json!([1]));
    assert!(matches!(read(vec![], true).await, Err(FrameError::Closed)));
    assert!(matches!(read(vec![0, 0, 0, 9, 1], true).await, Err(FrameError::Io(_))));
    assert!(matches!(read(vec![0, 0, 0, 9, 1], false).await, Err(FrameError::Late(_))));
    assert!(matches!(read(vec![0, 1, 0, 1], false).await, Err(FrameError::TooLarge { length: 65537 })));
    assert!(matches!(read(vec![255; 4], false).await, Err(FrameError::TooLarge { .. })));
    assert!(matches!(read(frame("{"), false).await, Err(FrameError::Garbled(_))));
    let deep = "[".repeat(60_000);
    assert!(matches!(read(frame(&deep), false).await, Err(FrameError::Garbled(_))));
    let mut sink = tokio::io::sink();
    let long = "x".repeat(MAX_FRAME);
    assert!(matches!(write_frame(&mut sink, &long, patience).await, Err(FrameError::TooLarge { .. })));
}
