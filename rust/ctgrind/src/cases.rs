//! The operations of the core that hold secrets. Memcheck must report none of them.
//!
//! Each case asserts that its results depend on the secret, and publishes what a caller sends or shows.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;

use frameseal::profile::{JITSI, LIVEKIT, SFRAME, STREAM};
use frameseal::{
    CipherSuite, Codec, DataCryptor, DecryptError, Decryptor, Encryptor, KeyRing, MlsKid, Options, Profile, SUITES,
    Secret, SenderBindings, hazmat,
};

use crate::memcheck::{is_public, publish, secret};
use crate::{CTR_TAG, Case, GCM_TAG, SAME_KEY};

/// Every case.
pub const ALL: &[Case] = &[
    Case { name: "passphrase", verdicts: &[(GCM_TAG, 2)], run: passphrase },
    Case { name: "raw-key", verdicts: &[(GCM_TAG, 4)], run: raw_key },
    Case { name: "gcm-wrong-tag", verdicts: &[(GCM_TAG, 8)], run: gcm_wrong_tag },
    Case { name: "ctr-suites", verdicts: &[(CTR_TAG, 24)], run: ctr_suites },
    Case { name: "frame-content", verdicts: &[], run: frame_content },
    Case { name: "wrong-key", verdicts: &[(GCM_TAG, 6)], run: wrong_key },
    Case { name: "kid-search", verdicts: &[(GCM_TAG, 6)], run: kid_search },
    Case { name: "epoch-senders", verdicts: &[(GCM_TAG, 5)], run: epoch_senders },
    Case { name: "same-key-again", verdicts: &[(SAME_KEY, 4)], run: same_key_again },
    Case { name: "ratchet-step", verdicts: &[(GCM_TAG, 2)], run: ratchet_step },
    Case { name: "ratchet-search", verdicts: &[(GCM_TAG, 6), (SAME_KEY, 2)], run: ratchet_search },
    Case { name: "fingerprint", verdicts: &[], run: fingerprint },
    Case { name: "export-and-debug", verdicts: &[], run: export_and_debug },
    Case { name: "data-packet", verdicts: &[(GCM_TAG, 5)], run: data_packet },
    Case { name: "batch", verdicts: &[(GCM_TAG, 10)], run: batch },
];

const FRAME: &[u8] = b"one packet of a call, longer than a block of AES and of SHA-256, so that loops over blocks run";

/// Returns a secret key of 16 bytes. Equal numbers yield equal keys.
fn key(number: u8) -> Secret {
    Secret::key(&secret(&[number; 16])).unwrap()
}

fn ring(profile: &'static Profile, options: Options) -> Arc<KeyRing> {
    Arc::new(KeyRing::new(profile, options).unwrap())
}

/// Returns a ring with one key under the key id 0.
fn ring_with(profile: &'static Profile, key: &Secret) -> Arc<KeyRing> {
    let ring = ring(profile, Options::default());
    ring.set(0, key).unwrap();
    ring
}

/// Seals a frame and publishes it.
fn sealed_by(ring: &Arc<KeyRing>) -> Vec<u8> {
    publish(Encryptor::new(Arc::clone(ring), Codec::Opus).unwrap().encrypt(FRAME).unwrap())
}

fn opener(ring: &Arc<KeyRing>) -> Decryptor {
    Decryptor::new(Arc::clone(ring), Codec::Opus, None).unwrap()
}

/// Asserts that a ring opens a frame.
fn assert_opens(ring: &Arc<KeyRing>, sealed: &[u8]) {
    assert_eq!(publish(opener(ring).decrypt(sealed).unwrap()), FRAME);
}

/// Derives keys with the password KDF, and seals and opens with them. The profile is made up: it has fewer iterations
/// than any vendor, because valgrind is slow.
fn passphrase() {
    let profile = hazmat::made_up_profile(hazmat::MadeUpVendor {
        name: "few iterations",
        salts: [b"salt"; 2],
        ratchet_len: 32,
        iterations: NonZeroU32::new(100),
        info: &[],
        clear: [1, 10, 3],
        byte_streams: false,
        blanks: &[],
    });
    // HMAC hashes a passphrase that is longer than a block of SHA-256.
    for passphrase in [&b"correct horse battery staple"[..], &[b'a'; 100]] {
        let passphrase = Secret::passphrase(&secret(passphrase)).unwrap();
        let ring = ring_with(profile, &passphrase);
        assert_opens(&ring, &sealed_by(&ring));
        black_box(passphrase.with_other_kdf().is_passphrase());
    }
}

/// Derives keys with the KDFs for raw keys, and without a KDF.
fn raw_key() {
    for profile in [&LIVEKIT, &JITSI, &STREAM, &SFRAME] {
        let ring = ring_with(profile, &key(1));
        assert_opens(&ring, &sealed_by(&ring));
    }
}

/// Opens a frame with a suite, refuses it altered in each part, and clears its plaintext then.
fn opens_and_refuses(suite: &CipherSuite, key_len: usize) {
    let key = secret(&vec![7; key_len]);
    let sealed = publish(hazmat::seal(suite, &key, [1; 12], b"aad", FRAME).unwrap());
    let mut plaintext = vec![1; FRAME.len()];
    assert!(hazmat::open(suite, &key, [1; 12], b"aad", &sealed, &mut plaintext).is_ok());
    assert_eq!(publish(plaintext), FRAME);
    for at in [0, FRAME.len(), sealed.len() - 1] {
        let mut altered = sealed.clone();
        altered[at] ^= 1;
        let mut plaintext = vec![1; FRAME.len()];
        assert!(hazmat::open(suite, &key, [1; 12], b"aad", &altered, &mut plaintext).is_err());
        assert!(is_public(&plaintext) && plaintext.iter().all(|&byte| byte == 0));
    }
}

/// Opens and refuses frames with every suite of AES-GCM, whatever byte is wrong.
fn gcm_wrong_tag() {
    for (id, key_len) in [(4, 16), (5, 32)] {
        opens_and_refuses(CipherSuite::by_id(id).unwrap(), key_len);
    }
}

/// Opens and refuses frames with every suite of AES-CTR and HMAC.
fn ctr_suites() {
    let mut count = 0;
    for suite in SUITES.iter().filter(|suite| suite.name.contains("CTR")) {
        opens_and_refuses(suite, if suite.draft { 96 } else { 48 });
        count += 1;
    }
    assert_eq!(count, 6);
}

/// Seals a frame whose content is secret. The key is public, so that no verdict is on a secret.
fn frame_content() {
    for profile in [&LIVEKIT, &STREAM, &SFRAME] {
        let ring = ring_with(profile, &Secret::key(&[3; 16]).unwrap());
        let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Unknown).unwrap();
        let sealed = publish(encryptor.encrypt(&secret(FRAME)).unwrap());
        let opened = Decryptor::new(ring, Codec::Unknown, None).unwrap().decrypt(&sealed).unwrap();
        assert_eq!(opened, FRAME);
    }
}

/// Refuses a frame of another key, through the key ring.
fn wrong_key() {
    for profile in [&LIVEKIT, &STREAM, &SFRAME] {
        let sealed = sealed_by(&ring_with(profile, &key(1)));
        let refused = opener(&ring_with(profile, &key(2))).decrypt(&sealed);
        assert_eq!(refused, Err(DecryptError::AuthenticationFailed { kid: 0 }));
    }
}

/// Looks keys up by the KID of a frame: among many keys, and for a KID without a key.
fn kid_search() {
    for profile in [&LIVEKIT, &SFRAME] {
        let (sender, receiver) = (ring(profile, Options::default()), ring(profile, Options::default()));
        for key_id in 0..16 {
            receiver.set(key_id, &key(key_id as u8)).unwrap();
        }
        for key_id in [0, 7, 15] {
            sender.set(key_id, &key(key_id as u8)).unwrap();
            sender.set_sending_key_id(key_id).unwrap();
            assert_opens(&receiver, &sealed_by(&sender));
        }
        receiver.remove(15);
        assert_eq!(opener(&receiver).decrypt(&sealed_by(&sender)), Err(DecryptError::UnknownKey { kid: 15 }));
    }
}

/// Derives keys from a base key and a KID: for the members of an epoch, and for the senders of a room. Binds each key of
/// the room to its participant.
fn epoch_senders() {
    let kid = |sender_index| MlsKid { epoch: 1, epoch_bits: 4, sender_index, sender_bits: 2, context: 0 };
    let rings: Vec<_> = (0..3)
        .map(|sender_index| {
            let ring = ring(&SFRAME, Options::default());
            ring.set_epoch(&key(1), &kid(sender_index), 1).unwrap();
            ring
        })
        .collect();
    assert_opens(&rings[2], &sealed_by(&rings[0]));
    assert_opens(&rings[2], &sealed_by(&rings[1]));

    let shared = Options { shared: true, ..Options::default() };
    let [alice, bob] = [ring(&SFRAME, shared), ring(&SFRAME, shared)];
    alice.set(3, &key(2)).unwrap();
    bob.set(3, &key(2)).unwrap();
    let bindings = Arc::new(SenderBindings::default());
    let bound_to = |name| opener(&bob).with_sender(Arc::clone(&bindings), name).unwrap();
    let (first, second) = (sealed_by(&alice), sealed_by(&alice));
    assert_eq!(publish(bound_to("alice").decrypt(&first).unwrap()), FRAME);
    assert!(matches!(bound_to("carol").decrypt(&second), Err(DecryptError::SenderMismatch { .. })));
}

/// Compares a key with the key that it replaces.
fn same_key_again() {
    for profile in [&LIVEKIT, &SFRAME] {
        let ring = ring_with(profile, &key(1));
        ring.set(0, &key(1)).unwrap();
        ring.set(0, &key(2)).unwrap();
    }
}

/// Takes one step of each ratchet.
fn ratchet_step() {
    for (profile, options) in
        [(&LIVEKIT, Options::default()), (&SFRAME, Options { ratchet_bits: 4, ..Options::default() })]
    {
        let (sender, receiver) = (ring(profile, options), ring(profile, options));
        for ring in [&sender, &receiver] {
            ring.set(0, &key(1)).unwrap();
            let next = ring.ratchet(0).unwrap();
            ring.set_sending_key_id(next).unwrap();
        }
        assert_opens(&receiver, &sealed_by(&sender));
    }
}

/// Searches for the key of a sender that is three steps ahead.
fn ratchet_search() {
    for (profile, ratchet_bits) in [(&LIVEKIT, 0), (&SFRAME, 4)] {
        let options = Options { ratchet_window: 5, ratchet_bits, ..Options::default() };
        let (sender, receiver) = (ring(profile, options), ring(profile, options));
        sender.set(0, &key(1)).unwrap();
        receiver.set(0, &key(1)).unwrap();
        let next = (0..3).fold(0, |key_id, _| sender.ratchet(key_id).unwrap());
        sender.set_sending_key_id(next).unwrap();
        assert_opens(&receiver, &sealed_by(&sender));
        assert_eq!(receiver.ratcheted_key_id(), Some(next));
    }
}

/// Computes a fingerprint, which people compare aloud.
fn fingerprint() {
    for profile in [&LIVEKIT, &SFRAME] {
        let ring = ring_with(profile, &key(1));
        publish(ring.fingerprint(None).unwrap());
    }
}

/// Exports a key, and shows no byte of it in any text.
fn export_and_debug() {
    let ring = ring(&LIVEKIT, Options { allow_export: true, ..Options::default() });
    let key = key(1);
    ring.set(0, &key).unwrap();
    assert_eq!(publish(ring.export(None).unwrap().to_vec()), [1; 16]);
    let text = format!("{key:?} {ring:?}");
    assert!(is_public(text.as_bytes()));
    // A system call with a secret byte would be reported.
    println!("{text}");
}

/// Opens and refuses messages of a data channel.
fn data_packet() {
    for profile in [&LIVEKIT, &SFRAME] {
        let ring = ring_with(profile, &key(1));
        let cryptor = || DataCryptor::new(Arc::clone(&ring), true, None).unwrap();
        let packet = publish(cryptor().encrypt_packet(FRAME, b"chat").unwrap());
        assert_eq!(publish(cryptor().decrypt_packet(&packet, b"chat").unwrap()), FRAME);
        assert!(cryptor().decrypt_packet(&packet, b"another channel").is_err());
        if cryptor().has_parts() {
            let parts = cryptor().encrypt(FRAME, b"chat").unwrap();
            let ciphertext = publish(parts.ciphertext);
            let opened = cryptor().decrypt(&parts.iv, parts.key_index.into(), &ciphertext, b"chat").unwrap();
            assert_eq!(publish(opened), FRAME);
        }
    }
}

/// Opens a batch on one thread: honest frames, and one that is altered.
fn batch() {
    for profile in [&LIVEKIT, &SFRAME] {
        let ring = ring_with(profile, &key(1));
        let mut sealed: Vec<_> = (0..4).map(|_| sealed_by(&ring)).collect();
        sealed[2][20] ^= 1;
        let decryptor = opener(&ring);
        let batch = decryptor.plan_batch(sealed.iter().map(Vec::as_slice).collect());
        let mut out = vec![0; batch.max_len()];
        let opened = batch.open_into(&mut out, 1);
        assert_eq!(opened.failed().iter().map(|(index, _)| *index).collect::<Vec<_>>(), [2]);
        assert!(!is_public(&out));
    }
}
