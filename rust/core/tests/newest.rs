//! Tests which key seals and which opens if several keys have one id: base keys and epochs with overlapping fields.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::sync::Arc;

use frameseal::profile::SFRAME;
use frameseal::{Codec, DataCryptor, Decryptor, EncryptError, Encryptor, KeyRing, MlsKid, Options, Secret};

fn ring(options: Options) -> Arc<KeyRing> {
    Arc::new(KeyRing::new(&SFRAME, options).unwrap())
}

/// Returns a secret with which no other test of this process seals.
fn own(test: &str, number: usize) -> Secret {
    Secret::key(format!("newest.rs: {test}, {number}").as_bytes()).unwrap()
}

fn encryptor(ring: &Arc<KeyRing>) -> Encryptor {
    Encryptor::new(Arc::clone(ring), Codec::Unknown).unwrap()
}

fn decryptor(ring: &Arc<KeyRing>) -> Decryptor {
    Decryptor::new(Arc::clone(ring), Codec::Unknown, None).unwrap()
}

/// A key that is set in a ring. Its position in a sequence determines its secret.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Set {
    Base(u64),
    /// An MLS epoch: its bits and its number.
    Epoch(u8, u64),
}

impl Set {
    fn set(self, ring: &KeyRing, secret: &Secret, member: u64) {
        match self {
            Self::Base(kid) => {
                // A base key has one sender, so the other rings only open.
                ring.set(kid, secret).unwrap();
                ring.set_sending_key_id(kid).unwrap();
            }
            Self::Epoch(epoch_bits, epoch) => {
                let kid = MlsKid { epoch, epoch_bits, sender_index: member, sender_bits: 2, context: 0 };
                ring.set_epoch(secret, &kid, 9).unwrap();
            }
        }
    }

    fn id(self) -> u64 {
        match self {
            Self::Base(kid) => kid,
            Self::Epoch(epoch_bits, epoch) => epoch & ((1 << epoch_bits) - 1),
        }
    }
}

/// The keys to set. All have id 1 or 2, so that they overlap.
const SETS: [Set; 6] =
    [Set::Base(1), Set::Epoch(1, 1), Set::Epoch(2, 1), Set::Epoch(4, 1), Set::Epoch(4, 2), Set::Epoch(1, 3)];

/// Returns every sequence of three keys.
fn sequences() -> impl Iterator<Item = [Set; 3]> {
    SETS.into_iter().flat_map(|a| SETS.into_iter().flat_map(move |b| SETS.into_iter().map(move |c| [a, b, c])))
}

#[test]
fn the_newest_seals_so_that_members_open_and_who_has_left_does_not() {
    let mut number = 0;
    for sequence in sequences() {
        let (alice, bob, carol) = (ring(Options::default()), ring(Options::default()), ring(Options::default()));
        let (from_alice, at_bob, at_carol) = (encryptor(&alice), decryptor(&bob), decryptor(&carol));
        let mut frames = Vec::new();
        for (place, set) in sequence.into_iter().enumerate() {
            number += 1;
            let secret = own("members", number);
            set.set(&alice, &secret, 1);
            set.set(&bob, &secret, 2);
            // Carol leaves before the last one is set.
            if place < 2 {
                set.set(&carol, &secret, 3);
            }
            let frame = from_alice.encrypt(b"frame").unwrap();
            assert_eq!(at_bob.decrypt(&frame).unwrap(), b"frame", "{sequence:?} {place}");
            assert_eq!(at_carol.decrypt(&frame).is_ok(), place < 2, "{sequence:?} {place}");
            let [of_alice, of_bob] = [&alice, &bob].map(|ring| ring.fingerprint(None).unwrap());
            assert_eq!((of_alice, alice.sending_key_id()), (of_bob, set.id()), "{sequence:?}");
            frames.push((set, frame, from_alice.encrypt(b"late").unwrap()));
        }
        // A key that is still in the ring opens late frames, whichever key was set after it.
        let replaced = |at: usize| {
            sequence[at + 1..].iter().any(|later| later.id() == sequence[at].id() && same_place(*later, sequence[at]))
        };
        for (at, (set, frame, late)) in frames.iter().enumerate() {
            assert_eq!(at_bob.decrypt(late).is_ok(), !replaced(at), "{sequence:?} {set:?}");
            assert!(at_bob.decrypt(frame).is_err() && at_bob.decrypt(late).is_err(), "{sequence:?} {set:?} again");
        }
    }
    assert_eq!(number, 3 * 6 * 6 * 6);
}

/// Returns whether one key replaces the other.
fn same_place(a: Set, b: Set) -> bool {
    match (a, b) {
        (Set::Base(a), Set::Base(b)) => a == b,
        (Set::Epoch(a_bits, _), Set::Epoch(b_bits, _)) => a_bits == b_bits && a.id() == b.id(),
        _ => false,
    }
}

#[test]
fn what_a_ring_says_of_an_id_is_said_of_the_newest_and_removing_it_removes_all() {
    let options = Options { allow_export: true, ..Options::default() };
    for (number, sequence) in sequences().enumerate() {
        let alice = ring(options);
        let secrets = [0, 1, 2].map(|place| format!("newest.rs: answers, {number}, {place}").into_bytes());
        for (set, secret) in sequence.into_iter().zip(&secrets) {
            set.set(&alice, &Secret::key(secret).unwrap(), 1);
        }
        let id = sequence[2].id();
        let alone = ring(Options::default());
        sequence[2].set(&alone, &Secret::key(&secrets[2]).unwrap(), 1);
        assert_eq!(alice.export(None).unwrap().as_slice(), secrets[2], "{sequence:?}");
        assert_eq!(alice.export(Some(id)).unwrap().as_slice(), secrets[2]);
        assert_eq!([None, Some(id)].map(|id| alice.fingerprint(id).unwrap()), [alone.fingerprint(None).unwrap(); 2]);
        (0..3).for_each(|_| assert!(encryptor(&alice).encrypt(b"x").is_ok()));
        assert_eq!((alice.frames_sealed(id), alice.can_encrypt()), (Ok(3), true));
        assert_eq!(encryptor(&alice).stats().key_frames, 3);

        alice.remove(id);
        assert!(!alice.key_ids().contains(&id) && !alice.can_encrypt(), "{sequence:?}");
        assert_eq!(encryptor(&alice).encrypt(b"x"), Err(EncryptError::UnknownKey { kid: id }));
        assert!(alice.fingerprint(None).is_err() && alice.export(None).is_err() && alice.frames_sealed(id).is_err());
    }
}

#[test]
fn a_group_made_anew_with_another_number_of_bits_seals_under_the_new_secret() {
    let (alice, bob, carol) = (ring(Options::default()), ring(Options::default()), ring(Options::default()));
    let set = |ring: &KeyRing, epoch_bits, secret: &Secret, sender_index| {
        let kid = MlsKid { epoch: 0, epoch_bits, sender_index, sender_bits: 2, context: 0 };
        ring.set_epoch(secret, &kid, 1).unwrap();
    };
    for (index, ring) in (0..).zip([&alice, &bob, &carol]) {
        set(ring, 4, &own("anew", 0), index);
    }
    for (index, ring) in (0..).zip([&alice, &bob]) {
        set(ring, 8, &own("anew", 1), index);
    }
    let (frame, packet) = (
        encryptor(&alice).encrypt(b"new").unwrap(),
        DataCryptor::new(Arc::clone(&alice), false, None).unwrap().encrypt_packet(b"new", b"").unwrap(),
    );
    let data = |ring: &Arc<KeyRing>| DataCryptor::new(Arc::clone(ring), false, None).unwrap();
    assert_eq!(decryptor(&bob).decrypt(&frame).unwrap(), b"new");
    assert_eq!(data(&bob).decrypt_packet(&packet, b"").unwrap(), b"new");
    assert!(decryptor(&carol).decrypt(&frame).is_err() && data(&carol).decrypt_packet(&packet, b"").is_err());
}

#[test]
fn a_step_that_has_the_key_id_of_an_old_one_is_followed() {
    let options = Options { ratchet_bits: 1, ratchet_window: 1, ..Options::default() };
    let (sender, receiver) = (ring(options), ring(options));
    for ring in [&sender, &receiver] {
        ring.set(6, &own("turns", 0)).unwrap();
    }
    let (encryptor, decryptor) = (encryptor(&sender), decryptor(&receiver));
    let mut late: Vec<Vec<u8>> = Vec::new();
    for step in 0..8 {
        let frame = encryptor.encrypt(b"step").unwrap();
        assert_eq!(decryptor.decrypt(&frame).unwrap(), b"step", "{step}");
        if let Some(late) = late.pop() {
            assert_eq!(decryptor.decrypt(&late).unwrap(), b"late", "{step}");
        }
        late.push(encryptor.encrypt(b"late").unwrap());
        sender.ratchet(sender.sending_key_id()).unwrap();
    }
    assert_eq!((decryptor.stats().ratchets, receiver.key_ids()), (7, vec![6, 7]));
}

#[test]
fn a_step_is_looked_for_from_the_nearest_key_of_its_generation() {
    let options = Options { ratchet_bits: 4, ratchet_window: 2, ..Options::default() };
    let (sender, receiver, secret) = (ring(options), ring(options), own("nearest", 0));
    for ring in [&sender, &receiver] {
        ring.set(0, &secret).unwrap();
    }
    let (encryptor, decryptor) = (encryptor(&sender), decryptor(&receiver));
    for step in 0..4 {
        if step == 3 {
            // The receiver has followed the ratchet already, and sets the step again.
            receiver.set(0, &secret).unwrap();
        }
        assert_eq!(decryptor.decrypt(&encryptor.encrypt(b"step").unwrap()).unwrap(), b"step", "{step}");
        sender.ratchet(step).unwrap();
    }
}

#[test]
fn honest_frames_of_a_base_key_and_of_an_epoch_under_one_kid_all_open_once() {
    let (base, member, receiver) = (ring(Options::default()), ring(Options::default()), ring(Options::default()));
    let kid = |sender_index| MlsKid { epoch: 1, epoch_bits: 2, sender_index, sender_bits: 1, context: 0 };
    base.set(5, &own("both", 0)).unwrap();
    assert_eq!(member.set_epoch(&own("both", 1), &kid(1), 0), Ok(5));
    receiver.set(5, &own("both", 0)).unwrap();
    receiver.set_epoch(&own("both", 1), &kid(0), 0).unwrap();
    let decryptor = decryptor(&receiver);
    let frames: Vec<_> = (0..50)
        .flat_map(|_| [&base, &member].map(|ring| encryptor(ring).encrypt(b"counted each for itself").unwrap()))
        .collect();
    assert!(frames.iter().all(|frame| decryptor.decrypt(frame).is_ok()));
    assert!(frames.iter().all(|frame| decryptor.decrypt(frame).is_err()));
    let stats = decryptor.stats();
    assert_eq!((stats.frames, stats.replayed, stats.authentication_failed), (100, 100, 0));
    assert_eq!(decryptor.consecutive_failures(), 0);
}
