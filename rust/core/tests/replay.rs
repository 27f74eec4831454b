//! Tests that no frame opens twice in a decryptor or data cryptor, whatever happens to the keys in between.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::sync::Arc;

use frameseal::profile::{JITSI, LIVEKIT, NEXTCLOUD, SFRAME, STREAM};
use frameseal::{Codec, DataCryptor, DecryptError, Decryptor, Encryptor, KeyRing, MlsKid, Options, Profile, Secret};

const FRAMES: usize = 20;

fn own(test: &str, number: usize) -> Secret {
    // 32 bytes, as profiles without a KDF need.
    Secret::key(format!("replay.rs: {test:20}{number}").as_bytes()).unwrap()
}

/// One way to set keys: how to make a ring, and how to set a secret under the id 0.
#[derive(Clone, Copy)]
struct Keys {
    profile: &'static Profile,
    options: fn() -> Options,
    set: fn(&KeyRing, &Secret, u64),
}

fn plain() -> Options {
    Options { ratchet_window: 4, ..Options::default() }
}

fn set(ring: &KeyRing, secret: &Secret, _: u64) {
    ring.set(0, secret).unwrap();
}

const KEYS: [Keys; 7] = [
    Keys { profile: &LIVEKIT, options: plain, set },
    Keys { profile: &JITSI, options: plain, set },
    Keys { profile: &NEXTCLOUD, options: plain, set },
    Keys { profile: &STREAM, options: Options::default, set },
    Keys { profile: &SFRAME, options: || Options { ratchet_bits: 3, ..plain() }, set },
    Keys { profile: &SFRAME, options: || Options { shared: true, ..plain() }, set },
    Keys {
        profile: &SFRAME,
        options: plain,
        set: |ring, secret, sender_index| {
            let kid = MlsKid { epoch: 0, epoch_bits: 2, sender_index, sender_bits: 1, context: 0 };
            ring.set_epoch(secret, &kid, 1).unwrap();
        },
    },
];

impl Keys {
    fn ring(self) -> Arc<KeyRing> {
        Arc::new(KeyRing::new(self.profile, (self.options)()).unwrap())
    }

    fn can_ratchet(self) -> bool {
        match self.profile.layout() {
            "footer" => false,
            "sframe" => (self.options)().ratchet_bits > 0,
            _ => true,
        }
    }
}

/// The decryptor and the data cryptor of one receiver. Some profiles have no data packets.
struct Receiver {
    decryptor: Decryptor,
    data: Option<DataCryptor>,
}

fn data_cryptor(ring: &Arc<KeyRing>, window: Option<usize>) -> Option<DataCryptor> {
    let has_packets = ring.profile().layout() != "footer";
    has_packets.then(|| DataCryptor::new(Arc::clone(ring), false, window).unwrap())
}

impl Receiver {
    fn new(ring: &Arc<KeyRing>) -> Self {
        Self {
            decryptor: Decryptor::new(Arc::clone(ring), Codec::Unknown, Some(1024)).unwrap(),
            data: data_cryptor(ring, Some(1024)),
        }
    }

    /// Returns the number of frames and packets that open of [`sealed`].
    fn all(&self) -> usize {
        FRAMES * (1 + usize::from(self.data.is_some()))
    }

    fn opened(&self, sealed: &[(Vec<u8>, Vec<u8>)]) -> usize {
        sealed
            .iter()
            .map(|(frame, packet)| {
                usize::from(self.decryptor.decrypt(frame).is_ok())
                    + usize::from(self.data.as_ref().is_some_and(|data| data.decrypt_packet(packet, b"").is_ok()))
            })
            .sum()
    }

    fn opened_in_batches(&self, sealed: &[(Vec<u8>, Vec<u8>)]) -> usize {
        let batch = self.decryptor.plan_batch(sealed.iter().map(|(frame, _)| frame.as_slice()).collect());
        let opened = batch.open_into(&mut vec![0; batch.max_len()], 1).results();
        opened.iter().filter(|opened| opened.is_ok()).count()
    }
}

/// Seals [`FRAMES`] frames and packets.
fn sealed(ring: &Arc<KeyRing>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let encryptor = Encryptor::new(Arc::clone(ring), Codec::Unknown).unwrap();
    let data = data_cryptor(ring, None);
    let packet = || data.as_ref().map_or_else(Vec::new, |data| data.encrypt_packet(b"packet", b"").unwrap());
    (0..FRAMES).map(|_| (encryptor.encrypt(b"frame").unwrap(), packet())).collect()
}

#[test]
fn a_key_that_goes_and_comes_back_opens_nothing_again() {
    for (number, keys) in KEYS.into_iter().enumerate() {
        let (sender, ring, secret) = (keys.ring(), keys.ring(), own("back", number));
        (keys.set)(&sender, &secret, 0);
        (keys.set)(&ring, &secret, 1);
        let (receiver, sealed) = (Receiver::new(&ring), sealed(&sender));
        assert_eq!(receiver.opened(&sealed), receiver.all());
        let comings: [&dyn Fn(); 4] = [
            &|| (keys.set)(&ring, &secret, 1),
            &|| {
                ring.key_ids().into_iter().for_each(|id| ring.remove(id));
                (keys.set)(&ring, &secret, 1);
            },
            &|| {
                (keys.set)(&ring, &own("another", number), 1);
                (keys.set)(&ring, &secret, 1);
            },
            &|| {
                if keys.can_ratchet() {
                    let id = ring.ratchet(0).unwrap();
                    ring.ratchet(id).unwrap();
                }
                (keys.set)(&ring, &secret, 1);
            },
        ];
        for (which, come) in comings.into_iter().enumerate() {
            come();
            assert_eq!(receiver.opened(&sealed), 0, "{} {number}, coming {which}", keys.profile.name);
            assert_eq!(receiver.opened_in_batches(&sealed), 0);
        }
        let stats = receiver.decryptor.stats();
        assert_eq!((stats.replayed, stats.authentication_failed), (8 * FRAMES as u64, 0), "and it is said why");
    }
}

#[test]
fn a_sender_that_is_followed_and_set_back_opens_nothing_again_and_a_replay_follows_nobody() {
    for (number, keys) in KEYS.into_iter().filter(|keys| keys.can_ratchet()).enumerate() {
        let (sender, ring, secret) = (keys.ring(), keys.ring(), own("followed", number));
        (keys.set)(&sender, &secret, 0);
        (keys.set)(&ring, &secret, 1);
        let receiver = Receiver::new(&ring);
        let mut all = Vec::new();
        for _ in 0..3 {
            let sealed = sealed(&sender);
            assert_eq!(receiver.opened(&sealed), 2 * FRAMES);
            all.extend(sealed);
            sender.ratchet(sender.sending_key_id()).unwrap();
        }
        assert_eq!(receiver.opened(&all), 0);
        (keys.set)(&ring, &secret, 1);
        let first = ring.fingerprint(Some(0)).unwrap();
        for _ in 0..2 {
            assert_eq!(receiver.opened(&all), 0, "{}", keys.profile.name);
            let backwards: Vec<_> = all.iter().rev().cloned().collect();
            assert_eq!(receiver.opened(&backwards), 0);
        }
        assert_eq!(ring.fingerprint(Some(0)), Ok(first), "no replay takes a step");
        (keys.set)(&sender, &secret, 0);
        sender.set_sending_key_id(0).unwrap();
        assert_eq!(receiver.opened(&sealed(&sender)), 2 * FRAMES, "what is new still opens");
    }
}

#[test]
fn a_key_that_two_ids_hold_opens_a_frame_under_one_of_them() {
    // The key index of the trailer layout is not authenticated: a forwarder can change it.
    let keys = KEYS[0];
    let (sender, ring, secret) = (keys.ring(), keys.ring(), own("two ids", 0));
    sender.set(0, &secret).unwrap();
    (0..3).for_each(|id| ring.set(id, &secret).unwrap());
    let (receiver, sealed) = (Receiver::new(&ring), sealed(&sender));
    for id in 0..3 {
        let renamed: Vec<_> = sealed
            .iter()
            .map(|(frame, packet)| {
                let (mut frame, mut packet) = (frame.clone(), packet.clone());
                *frame.last_mut().unwrap() = id;
                packet[2] = id;
                (frame, packet)
            })
            .collect();
        assert_eq!(receiver.opened(&renamed), if id == 0 { 2 * FRAMES } else { 0 }, "{id}");
    }
}

#[test]
fn a_ring_that_gets_keys_of_its_own_and_loses_them_opens_nothing_again() {
    for (number, keys) in KEYS.into_iter().enumerate() {
        let (sender, shared, secret) = (keys.ring(), keys.ring(), own("fallback", number));
        (keys.set)(&sender, &secret, 0);
        (keys.set)(&shared, &secret, 1);
        let own_ring = KeyRing::new(keys.profile, (keys.options)()).unwrap().with_fallback(shared).unwrap();
        let ring = Arc::new(own_ring);
        let (receiver, sealed) = (Receiver::new(&ring), sealed(&sender));
        assert_eq!(receiver.opened(&sealed), receiver.all());
        (keys.set)(&ring, &secret, 1);
        assert_eq!(receiver.opened(&sealed), 0);
        ring.key_ids().into_iter().for_each(|id| ring.remove(id));
        assert_eq!(receiver.opened(&sealed), 0);
    }
}

/// Seals one frame or packet each of `senders` senders of a shared key.
fn from_senders(secret: &Secret, senders: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let ring = || Arc::new(KeyRing::new(&SFRAME, Options { shared: true, ..Options::default() }).unwrap());
    (0..senders)
        .map(|_| {
            let ring = ring();
            ring.set(0, secret).unwrap();
            let frame = Encryptor::new(Arc::clone(&ring), Codec::Unknown).unwrap().encrypt(b"frame").unwrap();
            (frame, DataCryptor::new(ring, false, None).unwrap().encrypt_packet(b"packet", b"").unwrap())
        })
        .collect()
}

#[test]
fn a_forwarder_that_mixes_the_frames_of_many_senders_opens_none_twice() {
    let secret = own("forwarder", 0);
    for senders in [64, 100, 5_000] {
        let ring = Arc::new(KeyRing::new(&SFRAME, Options { shared: true, ..Options::default() }).unwrap());
        ring.set(0, &secret).unwrap();
        let receiver = Receiver::new(&ring);
        let target = KEYS[5].ring();
        target.set(0, &secret).unwrap();
        let before = sealed(&target);
        assert_eq!(receiver.opened(&before), 2 * FRAMES);
        let others = from_senders(&secret, senders);
        assert_eq!(receiver.opened(&others), 2 * senders);
        assert_eq!((receiver.opened(&before), receiver.opened(&others)), (0, 0), "{senders}");
        assert_eq!(receiver.opened_in_batches(&others), 0);
        // The sender whose window was evicted continues.
        assert_eq!(receiver.opened(&sealed(&target)), 2 * FRAMES);
        assert_eq!((receiver.opened(&before), receiver.opened(&others)), (0, 0), "{senders}");
        assert_eq!(receiver.decryptor.stats().authentication_failed, 0);
    }
}

#[test]
fn a_replay_is_said_to_be_one_and_counts_as_no_failure_of_the_key() {
    for keys in KEYS {
        let (ring, secret) = (keys.ring(), own("said", 0));
        (keys.set)(&ring, &secret, 0);
        let receiver = Receiver::new(&ring);
        let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Unknown).unwrap();
        // A short frame and a long frame take different paths through the core.
        for frame in [vec![7; 100], vec![7; 10_000]] {
            let Ok(sealed) = encryptor.encrypt(&frame) else { continue };
            assert_eq!(receiver.decryptor.decrypt(&sealed).unwrap(), frame);
            for _ in 0..3 {
                assert!(matches!(receiver.decryptor.decrypt(&sealed), Err(DecryptError::Replayed { .. })));
            }
        }
        assert_eq!(receiver.decryptor.consecutive_failures(), 0);
    }
}
