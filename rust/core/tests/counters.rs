//! Tests the counters of SFrame and the usage limits of keys. Both continue however and wherever a key is set again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;

use frameseal::profile::{LIVEKIT, SFRAME};
use frameseal::{
    Codec, DataCryptor, Decryptor, EncryptError, Encryptor, KeyError, KeyRing, MlsKid, Options, Profile, Secret, hazmat,
};

const KID: u64 = 5;

fn ring_of(profile: &'static Profile, options: Options) -> Arc<KeyRing> {
    Arc::new(KeyRing::new(profile, options).unwrap())
}

fn ring() -> Arc<KeyRing> {
    ring_of(&SFRAME, Options::default())
}

/// Returns a base key with which no other test of this process seals.
fn own(test: &str, number: usize) -> Secret {
    Secret::key(format!("counters.rs: {test}, {number}").as_bytes()).unwrap()
}

/// Sets an epoch in which this side has [`KID`].
fn epoch(ring: &KeyRing, secret: &Secret) {
    let kid = MlsKid { epoch: 1, epoch_bits: 2, sender_index: 1, sender_bits: 1, context: 0 };
    assert_eq!(ring.set_epoch(secret, &kid, 0), Ok(KID));
}

fn encryptor(ring: &Arc<KeyRing>) -> Encryptor {
    Encryptor::new(Arc::clone(ring), Codec::Unknown).unwrap()
}

/// Seals `frames` frames and returns their KIDs and counters.
fn sealed(ring: &Arc<KeyRing>, frames: usize) -> Result<Vec<(u64, u64)>, EncryptError> {
    let encryptor = encryptor(ring);
    let header = |frame: Vec<u8>| hazmat::parse_header(&frame).map(|(kid, ctr, _)| (kid, ctr)).unwrap();
    (0..frames).map(|_| encryptor.encrypt(b"x").map(header)).collect()
}

fn counters(ring: &Arc<KeyRing>, frames: usize) -> Vec<u64> {
    sealed(ring, frames).unwrap().into_iter().map(|(_, ctr)| ctr).collect()
}

/// The ways to set the key of a base key and [`KID`].
type Way = fn(&KeyRing, &Secret);

const WAYS: [Way; 3] =
    [|ring, secret| ring.set(KID, secret).unwrap(), |ring, secret| ring.set_from(KID, secret, Some(0)).unwrap(), epoch];

/// The ways to use a counter.
fn seal_five(ring: &Arc<KeyRing>, way: usize) {
    match way {
        0 => (0..5).for_each(|_| assert!(encryptor(ring).encrypt(b"x").is_ok())),
        1 => {
            let encryptor = encryptor(ring);
            let batch = encryptor.plan_batch(vec![b"x"; 5], 1).unwrap();
            batch.seal_into(&mut vec![0; batch.max_len()], 1).unwrap();
        }
        _ => {
            let data = DataCryptor::new(Arc::clone(ring), false, None).unwrap();
            (0..5).for_each(|_| assert!(data.encrypt_packet(b"x", b"").is_ok()));
        }
    }
}

#[test]
fn a_key_that_has_sealed_is_claimed_however_it_came_and_goes_on_in_its_ring_alone() {
    let mut number = 0;
    for way in WAYS {
        for seals in 0..3 {
            for again in [WAYS[0], WAYS[2]] {
                number += 1;
                let (ring, secret) = (ring(), own("claimed", number));
                way(&ring, &secret);
                seal_five(&ring, seals);
                for other in WAYS.into_iter().enumerate().filter(|(which, _)| *which != 1).map(|(_, other)| other) {
                    let elsewhere = self::ring();
                    other(&elsewhere, &secret);
                    assert_eq!(sealed(&elsewhere, 1), Err(EncryptError::KeyExhausted { kid: KID }));
                }
                // Base key and epoch have different ids. The key that is set again seals.
                ring.key_ids().into_iter().for_each(|id| ring.remove(id));
                assert!(matches!(sealed(&ring, 1), Err(EncryptError::UnknownKey { .. })));
                again(&ring, &secret);
                ring.set_sending_key_id(ring.key_ids()[0]).unwrap();
                assert_eq!(counters(&ring, 2), [5, 6]);
            }
        }
    }
}

#[test]
fn a_counter_that_this_process_has_used_is_refused_and_changes_nothing() {
    let (ring, secret) = (ring(), own("refused", 0));
    ring.set_from(KID, &secret, Some(0)).unwrap();
    assert_eq!(counters(&ring, 5), [0, 1, 2, 3, 4]);
    for given in 0..5 {
        let refused = Err(KeyError::CounterUsed { given, min: Some(5) });
        assert_eq!(ring.set_from(KID, &secret, Some(given)), refused);
        assert_eq!(self::ring().set_from(KID, &secret, Some(given)), refused);
    }
    let message = ring.set_from(KID, &secret, Some(2)).unwrap_err().to_string();
    assert!(message.starts_with("counter must be at least 5, not 2"), "{message}");
    assert_eq!((ring.frames_sealed(KID), counters(&ring, 1)), (Ok(5), vec![5]));
    ring.set_from(KID, &secret, Some(6)).unwrap();
    assert_eq!(counters(&ring, 1), [6]);
    self::ring().set_from(KID + 1, &secret, Some(0)).unwrap();
}

#[test]
fn rings_that_were_all_told_a_counter_never_meet_in_turn_or_in_threads() {
    let (a, b, secret) = (ring(), ring(), own("interleaved", 0));
    a.set_from(KID, &secret, Some(0)).unwrap();
    let mut seen = counters(&a, 5);
    b.set_from(KID, &secret, Some(5)).unwrap();
    assert_eq!(counters(&b, 1), [5]);
    for ring in [&a, &b, &a, &a, &b] {
        seen.extend(counters(ring, 3));
    }
    a.set(KID, &secret).unwrap();
    b.set(KID, &secret).unwrap();
    thread::scope(|scope| {
        let threads: Vec<_> = [&a, &b, &a, &b].map(|ring| scope.spawn(|| counters(ring, 2_000))).into_iter().collect();
        seen.extend(threads.into_iter().flat_map(|thread| thread.join().unwrap()));
    });
    assert_eq!(seen.len(), 5 + 15 + 8_000);
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len());
}

#[test]
fn a_step_that_was_left_and_is_taken_again_goes_on() {
    let options = Options { ratchet_bits: 4, ..Options::default() };
    let (ring, secret) = (ring_of(&SFRAME, options), own("steps", 0));
    ring.set(0, &secret).unwrap();
    assert_eq!(sealed(&ring, 2), Ok(vec![(0, 0), (0, 1)]));
    ring.ratchet(0).unwrap();
    assert_eq!(sealed(&ring, 2), Ok(vec![(1, 0), (1, 1)]));
    ring.set(0, &secret).unwrap();
    ring.set_sending_key_id(0).unwrap();
    assert_eq!(sealed(&ring, 1), Ok(vec![(0, 2)]));
    ring.ratchet(0).unwrap();
    assert_eq!(sealed(&ring, 1), Ok(vec![(1, 2)]));

    let other = ring_of(&SFRAME, options);
    other.set_from(0, &secret, Some(3)).unwrap();
    assert_eq!(sealed(&other, 1), Ok(vec![(0, 3)]));
    other.ratchet(0).unwrap();
    assert_eq!(sealed(&other, 1), Err(EncryptError::KeyExhausted { kid: 1 }), "the first ring has sealed under it");
}

#[test]
fn a_step_that_a_receiver_followed_to_is_no_licence_to_seal_with_it() {
    let options = Options { ratchet_bits: 4, ratchet_window: 2, ..Options::default() };
    let (sender, receiver, secret) = (ring_of(&SFRAME, options), ring_of(&SFRAME, options), own("followed", 0));
    sender.set(0, &secret).unwrap();
    receiver.set(0, &secret).unwrap();
    sender.ratchet(0).unwrap();
    let frame = encryptor(&sender).encrypt(b"x").unwrap();
    assert!(Decryptor::new(Arc::clone(&receiver), Codec::Unknown, None).unwrap().decrypt(&frame).is_ok());
    assert_eq!((receiver.sending_key_id(), receiver.key_ids()), (1, vec![0, 1]));
    assert_eq!(sealed(&receiver, 1), Err(EncryptError::KeyExhausted { kid: 1 }));
}

#[test]
fn a_shared_key_that_is_set_again_keeps_the_key_id_that_was_drawn_and_its_counter() {
    let (ring, secret) = (ring_of(&SFRAME, Options { shared: true, ..Options::default() }), own("shared", 0));
    ring.set(3, &secret).unwrap();
    let before = sealed(&ring, 2).unwrap();
    ring.set(3, &secret).unwrap();
    let after = sealed(&ring, 2).unwrap();
    assert_eq!((after[0], after[1]), ((before[0].0, 2), (before[0].0, 3)));
    ring.remove(3);
    ring.set(3, &secret).unwrap();
    let anew = sealed(&ring, 1).unwrap()[0];
    assert!(anew.0 != before[0].0 && anew.1 == 0, "{anew:?}");
    assert_eq!(ring.frames_sealed(3), Ok(5));
}

#[test]
fn the_largest_counter_ends_the_key_for_every_ring() {
    let (ring, secret) = (ring(), own("the end", 0));
    ring.set_from(KID, &secret, Some(u64::MAX - 1)).unwrap();
    assert_eq!(counters(&ring, 2), [u64::MAX - 1, u64::MAX]);
    assert_eq!(sealed(&ring, 1), Err(EncryptError::KeyExhausted { kid: KID }));
    for given in [0, u64::MAX] {
        let refused = Err(KeyError::CounterUsed { given, min: None });
        assert_eq!(self::ring().set_from(KID, &secret, Some(given)), refused);
    }
    ring.set(KID, &secret).unwrap();
    assert_eq!(sealed(&ring, 1), Err(EncryptError::KeyExhausted { kid: KID }));
}

#[test]
fn a_limit_counts_what_a_key_has_sealed_under_whichever_id_and_however_often_it_is_set() {
    let limited = Options { usage_limit: 6, ..Options::default() };
    let cases: [(&'static Profile, Options, u64); 3] =
        [(&LIVEKIT, limited, 1), (&SFRAME, limited, 0), (&SFRAME, Options { shared: true, ..limited }, 0)];
    for (number, (profile, options, other_id)) in cases.into_iter().enumerate() {
        let (ring, secret) = (ring_of(profile, options), own("limit", number));
        let between = |ring: &KeyRing| ring.set(0, &own("limit between", number)).unwrap();
        let again: [&dyn Fn(&KeyRing); 4] = [
            &|ring| ring.set(0, &secret).unwrap(),
            &|ring| {
                ring.remove(0);
                ring.set(0, &secret).unwrap();
            },
            &|ring| {
                between(ring);
                ring.set(0, &secret).unwrap();
            },
            &|ring| {
                ring.set(other_id, &secret).unwrap();
                ring.set_sending_key_id(other_id).unwrap();
            },
        ];
        ring.set(0, &secret).unwrap();
        assert!(encryptor(&ring).encrypt(b"x").is_ok());
        for (sealed, set) in (1..).zip(again) {
            set(&ring);
            assert_eq!(ring.frames_sealed(ring.sending_key_id()), Ok(sealed), "{}", profile.name);
            assert!(encryptor(&ring).encrypt(b"x").is_ok());
        }
        assert!(encryptor(&ring).encrypt(b"x").is_ok());
        for set in again {
            set(&ring);
            let exhausted = encryptor(&ring).encrypt(b"x");
            assert!(matches!(exhausted, Err(EncryptError::KeyExhausted { .. })), "{} {exhausted:?}", profile.name);
        }
        ring.set_sending_key_id(0).unwrap();
        assert!(encryptor(&ring).encrypt(b"x").is_err());
    }
}

#[test]
fn a_ratchet_back_to_a_key_counts_on_from_what_it_has_sealed() {
    let ring = ring_of(&LIVEKIT, Options { usage_limit: 3, ..Options::default() });
    let secret = own("ratchet back", 0);
    ring.set(0, &secret).unwrap();
    let encryptor = encryptor(&ring);
    (0..2).for_each(|_| assert!(encryptor.encrypt(b"x").is_ok()));
    ring.ratchet(0).unwrap();
    assert_eq!(ring.frames_sealed(0), Ok(0));
    (0..3).for_each(|_| assert!(encryptor.encrypt(b"x").is_ok()));
    ring.set(0, &secret).unwrap();
    assert_eq!(ring.frames_sealed(0), Ok(2));
    assert!(encryptor.encrypt(b"x").is_ok() && encryptor.encrypt(b"x").is_err());
    ring.ratchet(0).unwrap();
    assert_eq!((ring.frames_sealed(0), encryptor.encrypt(b"x")), (Ok(3), Err(EncryptError::KeyExhausted { kid: 0 })));
}
