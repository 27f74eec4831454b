//! SFrame (RFC 9605): the working group's vectors, sender keys, MLS epochs, shared keys. Edge cases are in edges.rs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::sync::Arc;

use frameseal::{
    ApiMisuse, CipherSuite, Codec, ConfigError, DecryptError, Decryptor, EncryptError, Encryptor, KeyError, KeyRing,
    MlsKid, Options, SUITES, Secret, hazmat, profile,
};
use serde_json::Value;

mod edges;

fn read(file: &str) -> Value {
    let path = format!("{}/../../tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn group(file: &str, name: &str) -> Vec<Value> {
    let cases = read(file)[name].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn bytes(case: &Value, field: &str) -> Vec<u8> {
    hex::decode(case[field].as_str().unwrap_or_else(|| panic!("{field} in {case}"))).unwrap()
}

fn number(case: &Value, field: &str) -> u64 {
    case[field].as_u64().unwrap_or_else(|| panic!("{field} in {case}"))
}

fn suite(case: &Value) -> &'static CipherSuite {
    CipherSuite::by_id(u16::try_from(number(case, "cipher_suite")).unwrap()).unwrap()
}

fn frames() -> Vec<Value> {
    let mut cases = group("sframe-rfc9605.json", "sframe");
    cases.extend(group("sframe-aes256-ctr-hmac.json", "sframe_aes_256_ctr_hmac"));
    cases
}

fn ring(options: Options) -> Arc<KeyRing> {
    Arc::new(KeyRing::new(&profile::SFRAME, options).unwrap())
}

fn keyed(kid: u64, base_key: &[u8], options: Options) -> Arc<KeyRing> {
    let ring = ring(options);
    ring.set(kid, &Secret::key(base_key).unwrap()).unwrap();
    ring
}

fn encryptor(ring: &Arc<KeyRing>) -> Encryptor {
    Encryptor::new(Arc::clone(ring), Codec::Unknown).unwrap()
}

fn decryptor(ring: &Arc<KeyRing>) -> Decryptor {
    Decryptor::new(Arc::clone(ring), Codec::Unknown, None).unwrap()
}

fn open_with(decryptor: &Decryptor, sealed: &[u8], metadata: &[u8]) -> Result<Vec<u8>, DecryptError> {
    let plan = decryptor.plan(sealed, metadata)?.unwrap();
    let mut frame = vec![0; plan.frame_len()];
    plan.open_into(&mut frame).map(|()| frame)
}

fn seal_with(encryptor: &Encryptor, frame: &[u8], metadata: &[u8]) -> Vec<u8> {
    let plan = encryptor.plan(frame, metadata).unwrap().unwrap();
    let mut sealed = vec![0; plan.sealed_len()];
    assert_eq!(plan.seal_into(&mut sealed), Ok(0));
    sealed
}

#[test]
fn every_header_is_written_and_read_as_the_working_group_has_it() {
    let cases = group("sframe-rfc9605.json", "header");
    assert_eq!(cases.len(), 289);
    for case in cases {
        let (kid, ctr, encoded) = (number(&case, "kid"), number(&case, "ctr"), bytes(&case, "encoded"));
        assert_eq!(hazmat::header(kid, ctr), encoded);
        assert_eq!(hazmat::parse_header(&encoded), Some((kid, ctr, encoded.len())));
    }
}

#[test]
fn values_in_a_longer_form_than_they_need_are_refused() {
    for header in ["8007", "0807", "900008", "88ff", "9000ff", "8800", "f80000000000000000"] {
        let refused = hazmat::parse_header(&hex::decode(header).unwrap()).is_none();
        // 88ff is KID 255 without its counter field: Y is set and nothing follows.
        assert!(refused, "{header}");
    }
}

#[test]
fn the_bare_aead_of_ctr_and_hmac_agrees() {
    for case in group("sframe-rfc9605.json", "aes_ctr_hmac") {
        let nonce = bytes(&case, "nonce").try_into().unwrap();
        let sealed =
            hazmat::seal(suite(&case), &bytes(&case, "key"), nonce, &bytes(&case, "aad"), &bytes(&case, "pt")).unwrap();
        assert_eq!(sealed, bytes(&case, "ct"));
    }
}

#[test]
fn every_suite_derives_seals_and_opens_as_the_working_group_has_it() {
    let cases = frames();
    assert_eq!(cases.len(), SUITES.len());
    for case in cases {
        let (suite, kid, ctr) = (suite(&case), number(&case, "kid"), number(&case, "ctr"));
        let secret = Secret::key(&bytes(&case, "base_key")).unwrap();
        let (key, salt) = hazmat::derive(&profile::SFRAME, suite, kid, &secret).unwrap();
        assert_eq!((key, salt.to_vec()), (bytes(&case, "sframe_key"), bytes(&case, "sframe_salt")), "{}", suite.name);

        let ring = ring(Options { suite: Some(suite.id), allow_draft: true, ..Options::default() });
        ring.set_from(kid, &secret, Some(ctr)).unwrap();
        let (plain, sealed, metadata) = (bytes(&case, "pt"), bytes(&case, "ct"), bytes(&case, "metadata"));
        assert_eq!(hex::encode(seal_with(&encryptor(&ring), &plain, &metadata)), hex::encode(&sealed));
        assert_eq!(open_with(&decryptor(&ring), &sealed, &metadata), Ok(plain));
        assert_eq!(
            open_with(&decryptor(&ring), &sealed, b"other metadata"),
            Err(DecryptError::AuthenticationFailed { kid })
        );
    }
}

#[test]
fn suites_of_a_draft_are_off_unless_asked_for() {
    for suite in SUITES {
        let made = KeyRing::new(&profile::SFRAME, Options { suite: Some(suite.id), ..Options::default() });
        assert_eq!(made.is_err(), suite.draft, "{}", suite.name);
        assert_eq!(suite.draft, suite.id >= 6);
    }
}

#[test]
fn sender_keys_ratchet_as_the_vectors_do_and_receivers_follow() {
    for chain in group("sframe-keys.json", "ratchet") {
        let (suite, steps) = (suite(&chain), chain["steps"].as_array().unwrap());
        let ratchet_bits = u8::try_from(number(&chain, "ratchet_bits")).unwrap();
        let options = Options { suite: Some(suite.id), allow_draft: true, ratchet_bits, ..Options::default() };
        let first = number(&steps[0], "kid");
        let sender = keyed(first, &bytes(&steps[0], "base_key"), options);
        let receiver = keyed(first, &bytes(&steps[0], "base_key"), Options { ratchet_window: 3, ..options });
        let (encryptor, decryptor) = (encryptor(&sender), decryptor(&receiver));
        for (n, step) in steps.iter().enumerate() {
            let kid = number(step, "kid");
            if n > 0 {
                assert_eq!(sender.ratchet(sender.sending_key_id()), Ok(kid));
            }
            let secret = Secret::key(&bytes(step, "base_key")).unwrap();
            let (key, salt) = hazmat::derive(&profile::SFRAME, suite, kid, &secret).unwrap();
            assert_eq!((key, salt.to_vec()), (bytes(step, "sframe_key"), bytes(step, "sframe_salt")));

            let sealed = encryptor.encrypt(b"step").unwrap();
            assert_eq!(hazmat::parse_header(&sealed).map(|(kid, ..)| kid), Some(kid));
            assert_eq!(decryptor.decrypt(&sealed).unwrap(), b"step");
            // Frames of the previous step may still arrive. The keys of older steps are erased.
            assert!(receiver.key_ids().len() <= 2);
        }
        assert_eq!(decryptor.stats().ratchets, steps.len() as u64 - 1);
    }
}

#[test]
fn the_look_ahead_has_a_bound_and_a_forged_step_changes_nothing() {
    let options = Options { ratchet_bits: 8, ..Options::default() };
    let sender = keyed(0x100, &[1; 16], options);
    let receiver = keyed(0x100, &[1; 16], Options { ratchet_window: 4, ..options });
    let decryptor = decryptor(&receiver);
    let late = encryptor(&sender).encrypt(b"step 0").unwrap();
    let step = |times: usize| (0..times).for_each(|_| assert!(sender.ratchet(sender.sending_key_id()).is_ok()));

    step(5);
    let one_too_far = encryptor(&sender).encrypt(b"step 5").unwrap();
    assert_eq!(decryptor.decrypt(&one_too_far), Err(DecryptError::UnknownKey { kid: 0x105 }));
    let mut forged = one_too_far.clone();
    forged[2] = 0x04;
    assert_eq!(decryptor.decrypt(&forged), Err(DecryptError::AuthenticationFailed { kid: 0x104 }));
    assert_eq!(receiver.key_ids(), [0x100]);

    assert_eq!(receiver.ratchet(0x100), Ok(0x101));
    assert_eq!(decryptor.decrypt(&one_too_far).unwrap(), b"step 5");
    assert_eq!(receiver.key_ids(), [0x101, 0x105]);
    // Step 0 was erased when step 5 replaced step 1: forward secrecy.
    assert_eq!(decryptor.decrypt(&late), Err(DecryptError::UnknownKey { kid: 0x100 }));
}

#[test]
fn the_step_before_the_current_one_still_opens() {
    let options = Options { ratchet_bits: 4, ratchet_window: 2, ..Options::default() };
    let (sender, receiver) = (keyed(0, &[2; 16], options), keyed(0, &[2; 16], options));
    let decryptor = decryptor(&receiver);
    let late = encryptor(&sender).encrypt(b"before").unwrap();
    sender.ratchet(0).unwrap();
    assert_eq!(decryptor.decrypt(&encryptor(&sender).encrypt(b"after").unwrap()).unwrap(), b"after");
    assert_eq!(decryptor.decrypt(&late).unwrap(), b"before");
}

#[test]
fn steps_wrap_around_inside_their_bits() {
    let options = Options { ratchet_bits: 2, ratchet_window: 1, ..Options::default() };
    let (sender, receiver) = (keyed(0x1C, &[3; 32], options), keyed(0x1C, &[3; 32], options));
    let (encryptor, decryptor) = (encryptor(&sender), decryptor(&receiver));
    for expected in [0x1C, 0x1D, 0x1E, 0x1F, 0x1C, 0x1D] {
        assert_eq!(sender.sending_key_id(), expected);
        let sealed = encryptor.encrypt(b"x").unwrap();
        assert_eq!(decryptor.decrypt(&sealed).unwrap(), b"x");
        sender.ratchet(expected).unwrap();
    }
}

#[test]
fn mls_key_ids_are_those_of_the_rfc() {
    for case in group("sframe-keys.json", "mls_kid") {
        let kid = MlsKid {
            epoch: number(&case, "epoch"),
            epoch_bits: u8::try_from(number(&case, "epoch_bits")).unwrap(),
            sender_index: number(&case, "sender_index"),
            sender_bits: u8::try_from(number(&case, "sender_bits")).unwrap(),
            context: number(&case, "context"),
        };
        assert_eq!(kid.value(), Ok(number(&case, "kid")));
    }
}

#[test]
fn members_of_an_epoch_open_each_other_and_old_epochs_are_erased() {
    let member = |sender_index, epoch| MlsKid { epoch, epoch_bits: 4, sender_index, sender_bits: 6, context: 0 };
    let exported = |epoch: u8| Secret::key(&[epoch; 16]).unwrap();
    let (alice, bob) = (ring(Options::default()), ring(Options::default()));
    let (encryptor, decryptor) = (encryptor(&alice), decryptor(&bob));
    let mut of_epoch = Vec::new();
    for epoch in 1..=17 {
        let kid = alice.set_epoch(&exported(epoch), &member(3, epoch.into()), 1).unwrap();
        bob.set_epoch(&exported(epoch), &member(5, epoch.into()), 1).unwrap();
        let sealed = encryptor.encrypt(&[epoch]).unwrap();
        assert_eq!(hazmat::parse_header(&sealed).map(|(kid, ..)| kid), Some(kid));
        of_epoch.push(sealed);
    }
    assert_eq!(decryptor.decrypt(&of_epoch[16]).unwrap(), [17]);
    assert_eq!(decryptor.decrypt(&of_epoch[15]).unwrap(), [16]);
    assert!(matches!(decryptor.decrypt(&of_epoch[13]), Err(DecryptError::UnknownKey { .. })));
    // Epoch 1 has the low bits of epoch 17, which replaced it.
    assert!(matches!(self::decryptor(&bob).decrypt(&of_epoch[0]), Err(DecryptError::AuthenticationFailed { .. })));
}

#[test]
fn fields_that_do_not_fit_a_key_id_are_refused() {
    let fits = MlsKid { epoch: 9, epoch_bits: 4, sender_index: 63, sender_bits: 6, context: u64::MAX >> 10 };
    assert!(fits.value().is_ok());
    for wrong in [
        MlsKid { sender_index: 64, ..fits },
        MlsKid { context: fits.context + 1, ..fits },
        MlsKid { epoch_bits: 60, ..fits },
    ] {
        assert!(matches!(wrong.value(), Err(KeyError::KeyIdField { .. })));
    }
}

#[test]
fn senders_of_a_shared_key_never_seal_under_one_kid() {
    let shared = Options { shared: true, ..Options::default() };
    let secret = Secret::passphrase(b"the room's").unwrap();
    let rings: Vec<_> = (0..4).map(|_| ring(shared)).collect();
    let receiver = decryptor(&rings[0]);
    let mut kids = Vec::new();
    for ring in &rings {
        ring.set(7, &secret).unwrap();
        assert_eq!((ring.key_ids(), ring.sending_key_id()), (vec![7], 7));
    }
    for ring in &rings {
        let encryptor = encryptor(ring);
        for n in 0..3 {
            let sealed = encryptor.encrypt(&[n]).unwrap();
            let (kid, ctr, _) = hazmat::parse_header(&sealed).unwrap();
            assert_eq!((kid & 0xFF, ctr), (7, n.into()));
            assert_eq!(receiver.decrypt(&sealed).unwrap(), [n]);
            kids.push(kid);
        }
        assert_eq!(ring.frames_sealed(7), Ok(3));
    }
    kids.dedup();
    assert_eq!(kids.len(), 4);
    assert_eq!(rings[0].set(256, &secret), Err(KeyError::KeyIdOutOfRange { key_id: 256, key_ring_size: 256 }));
}

#[test]
fn failures_under_a_shared_key_count_in_a_row_though_no_sender_of_it_is_known() {
    let shared = Options { shared: true, ..Options::default() };
    let (sender, receiver) = (ring(shared), ring(shared));
    sender.set(0, &Secret::key(&[1; 16]).unwrap()).unwrap();
    receiver.set(0, &Secret::key(&[2; 16]).unwrap()).unwrap();
    let (encryptor, decryptor) = (encryptor(&sender), decryptor(&receiver));
    for n in 1..=3 {
        assert!(decryptor.decrypt(&encryptor.encrypt(b"x").unwrap()).is_err());
        assert_eq!(decryptor.consecutive_failures(), n);
    }
    receiver.set(0, &Secret::key(&[3; 16]).unwrap()).unwrap();
    assert!(decryptor.decrypt(&encryptor.encrypt(b"x").unwrap()).is_err());
    assert_eq!(decryptor.consecutive_failures(), 1);
    receiver.set(0, &Secret::key(&[1; 16]).unwrap()).unwrap();
    assert!(decryptor.decrypt(&encryptor.encrypt(b"x").unwrap()).is_ok());
    assert_eq!(decryptor.consecutive_failures(), 0);
}

#[test]
fn a_restart_under_the_same_base_key_and_kid_is_refused_unless_told_where_to_go_on() {
    let secret = Secret::key(b"a_restart_under_the_same").unwrap();
    let first = ring(Options::default());
    first.set(1, &secret).unwrap();
    assert!(encryptor(&first).encrypt(b"x").is_ok());

    let second = ring(Options::default());
    second.set(1, &secret).unwrap();
    assert_eq!(encryptor(&second).encrypt(b"x"), Err(EncryptError::KeyExhausted { kid: 1 }));
    second.set_from(1, &secret, Some(1)).unwrap();
    let sealed = encryptor(&second).encrypt(b"x").unwrap();
    assert_eq!(hazmat::parse_header(&sealed), Some((1, 1, 1)));
    second.set(2, &secret).unwrap();
    second.set_sending_key_id(2).unwrap();
    assert!(encryptor(&second).encrypt(b"x").is_ok());
}

#[test]
fn an_envelope_hides_start_codes_and_ends_in_a_byte_that_is_not_zero() {
    for (codec, key, delta) in [
        (Codec::H264, &b"\0\0\0\x01\x65\x88\x80"[..], &b"\0\0\0\x01\x41\x9a\0"[..]),
        (Codec::H265, b"\0\0\0\x01\x26\x01\x80", b"\0\0\0\x01\x02\x01\0"),
    ] {
        let ring = keyed(1, &codec.name().as_bytes().repeat(4), Options::default());
        let (encryptor, decryptor) = (
            Encryptor::new(Arc::clone(&ring), codec).unwrap(),
            Decryptor::new(Arc::clone(&ring), codec, None).unwrap(),
        );
        for n in 0..20_000u32 {
            let frame = [if n % 2 == 0 { key } else { delta }, &(n | 0x8080_8080).to_be_bytes()].concat();
            let sealed = encryptor.encrypt(&frame).unwrap();
            assert!(sealed.starts_with(&[0, 0, 0, 1]) && sealed.ends_with(&[0x80]));
            assert!(!sealed[4..].windows(3).any(|bytes| matches!(bytes, [0, 0, 0..=2])));
            assert_eq!(sealed[4] == encryptor.encrypt(key).unwrap()[4], n % 2 == 0);
            assert_eq!(decryptor.decrypt(&sealed).unwrap(), frame);
        }
        assert_eq!(decryptor.decrypt(key), Err(DecryptError::Malformed));
    }
}

#[test]
fn what_belongs_to_the_other_profile_is_refused() {
    let livekit = KeyRing::new(&profile::LIVEKIT, Options::default()).unwrap();
    let secret = Secret::key(&[8; 16]).unwrap();
    assert!(matches!(livekit.set_from(0, &secret, Some(1)), Err(KeyError::Misuse(ApiMisuse::Counter))));
    assert!(matches!(livekit.set_epoch(&secret, &MlsKid::default(), 1), Err(KeyError::Misuse(ApiMisuse::Epoch))));
    for options in [Options { shared: true, ..Options::default() }, Options { ratchet_bits: 4, ..Options::default() }] {
        assert!(matches!(KeyRing::new(&profile::LIVEKIT, options), Err(ConfigError::UnsupportedOption { .. })));
    }
    assert!(matches!(keyed(1, &[9; 16], Options::default()).ratchet(1), Err(KeyError::Misuse(ApiMisuse::RatchetBits))));
    livekit.set(0, &secret).unwrap();
    let encryptor = Encryptor::new(Arc::new(livekit), Codec::Opus).unwrap();
    assert!(encryptor.plan(b"x", b"metadata").is_err());
}
