//! Tests the check of a frame's key against the participant who owns the track. The keys come from one base key.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::sync::Arc;

use frameseal::profile::{LIVEKIT, SFRAME};
use frameseal::{Codec, ConfigError, DecryptError, Decryptor, Encryptor, KeyRing, Options, Secret, SenderBindings};

/// Returns a ring over the base key `secret` of a room, whose side draws a KID of its own.
fn ring(secret: &[u8]) -> Arc<KeyRing> {
    let ring = KeyRing::new(&SFRAME, Options { shared: true, ..Options::default() }).unwrap();
    ring.set(0, &Secret::key(secret).unwrap()).unwrap();
    Arc::new(ring)
}

fn encryptor(ring: &Arc<KeyRing>) -> Encryptor {
    Encryptor::new(Arc::clone(ring), Codec::Unknown).unwrap()
}

fn decryptor(ring: &Arc<KeyRing>, bindings: &Arc<SenderBindings>, participant: &str) -> Decryptor {
    let decryptor = Decryptor::new(Arc::clone(ring), Codec::Unknown, None).unwrap();
    decryptor.with_sender(Arc::clone(bindings), participant).unwrap()
}

fn mismatch<T>(opened: Result<T, DecryptError>) -> bool {
    matches!(opened, Err(DecryptError::SenderMismatch { .. }))
}

#[test]
fn a_track_opens_the_frames_of_its_participant_and_of_no_other() {
    let secret = b"senders.rs: a track";
    let (ours, bindings) = (ring(secret), Arc::new(SenderBindings::default()));
    let [bob, carol] = [encryptor(&ring(secret)), encryptor(&ring(secret))];
    let [bobs, carols] = ["bob", "carol"].map(|participant| decryptor(&ours, &bindings, participant));
    for _ in 0..2 {
        assert_eq!(bobs.decrypt(&bob.encrypt(b"from bob").unwrap()).unwrap(), b"from bob");
        assert_eq!(carols.decrypt(&carol.encrypt(b"from carol").unwrap()).unwrap(), b"from carol");
        assert!(mismatch(bobs.decrypt(&carol.encrypt(b"from carol").unwrap())));
        assert!(mismatch(carols.decrypt(&bob.encrypt(b"from bob").unwrap())));
    }
    let stats = bobs.stats();
    assert_eq!((stats.sender_mismatch, stats.authentication_failed, stats.replayed), (2, 0, 0));
    bindings.release("bob");
    assert!(mismatch(carols.decrypt(&bob.encrypt(b"from bob").unwrap())), "carol has a key");
    let again = decryptor(&ours, &bindings, "bob again");
    assert_eq!(again.decrypt(&bob.encrypt(b"from bob").unwrap()).unwrap(), b"from bob");
}

#[test]
fn our_own_frames_come_back_on_no_track() {
    let ours = ring(b"senders.rs: our own");
    let bobs = decryptor(&ours, &Arc::default(), "bob");
    let sealed = encryptor(&ours).encrypt(b"from us").unwrap();
    assert!(mismatch(bobs.decrypt(&sealed)) && mismatch(bobs.decrypt(&sealed)));
    let unbound = Decryptor::new(ours, Codec::Unknown, None).unwrap();
    assert_eq!(unbound.decrypt(&sealed).unwrap(), b"from us");
}

#[test]
fn a_batch_refuses_the_frames_of_other_participants() {
    let secret = b"senders.rs: a batch";
    let [bob, carol] = [encryptor(&ring(secret)), encryptor(&ring(secret))];
    let (ours, bindings) = (ring(secret), Arc::default());
    let [bobs, carols] = ["bob", "carol"].map(|participant| decryptor(&ours, &bindings, participant));
    assert!(carols.decrypt(&carol.encrypt(b"a frame").unwrap()).is_ok());
    let sealed: Vec<_> = [&bob, &carol, &bob].map(|from| from.encrypt(b"a frame").unwrap()).into();
    let batch = bobs.plan_batch(sealed.iter().map(Vec::as_slice).collect());
    let opened = batch.open_into(&mut vec![0; batch.max_len()], 1).results();
    assert_eq!((opened[0], opened[2]), (Ok(7), Ok(7)));
    assert!(mismatch(opened[1]));
    assert_eq!(bobs.stats().sender_mismatch, 1);
}

#[test]
fn a_layout_whose_participants_share_one_key_has_no_senders() {
    let ring = KeyRing::new(&LIVEKIT, Options::default()).unwrap();
    let decryptor = Decryptor::new(Arc::new(ring), Codec::Opus, None).unwrap();
    let refused = decryptor.with_sender(Arc::default(), "bob").err();
    assert_eq!(refused, Some(ConfigError::UnsupportedOption { option: "senders", profile: "livekit" }));
}
