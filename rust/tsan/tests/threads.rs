//! Every type of the core under several threads at once, while keys change. ThreadSanitizer watches. The assertions
//! hold without it too.

use std::collections::HashSet;
use std::sync::{Arc, Barrier};
use std::thread;

use frameseal::{
    Codec, DataCryptor, DecryptError, Decryptor, EncryptError, Encryptor, KeyRing, MlsKid, Options, Profile, Secret,
    SenderBindings, fork,
};

const THREADS: usize = 4;
const FRAMES: usize = 60;
/// Both sides of the length from which the AEAD runs without the ring's lock.
const SIZES: [usize; 3] = [30, 900, 20_000];

/// Returns the results of `work` in threads that begin at the same time.
fn at_once<T: Send>(work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let begin = Barrier::new(THREADS);
    thread::scope(|scope| {
        let start = |number| {
            let (work, begin) = (&work, &begin);
            scope.spawn(move || {
                begin.wait();
                work(number)
            })
        };
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn ring(profile: &str, options: Options) -> Arc<KeyRing> {
    Arc::new(KeyRing::new(Profile::by_name(profile).unwrap(), options).unwrap())
}

/// Returns a ring with a key. In SFrame one ring of a process seals under a key, so each test has a seed of its own.
fn keyed(profile: &str, seed: u8) -> Arc<KeyRing> {
    let ring = ring(profile, Options::default());
    ring.set(0, &Secret::key(&[seed; 32]).unwrap()).unwrap();
    ring
}

fn frame(size: usize) -> Vec<u8> {
    vec![0x78; size]
}

fn batch(encryptor: &Encryptor, threads: usize) -> Vec<Vec<u8>> {
    let frames = vec![[0x78; 100].as_slice(); 300];
    let batch = encryptor.plan_batch(frames, threads).unwrap();
    let mut sealed = vec![0; batch.max_len()];
    let lens = batch.seal_into(&mut sealed, threads).unwrap();
    let mut rest = sealed.as_slice();
    lens.iter().map(|len| rest.split_off(..*len).unwrap().to_vec()).collect()
}

fn seals_and_opens_each_frame_once(profile: &str, seed: u8) {
    let encryptor = Encryptor::new(keyed(profile, seed), Codec::Opus).unwrap();
    let sealed = at_once(|number| {
        let mut sealed: Vec<_> =
            (0..FRAMES).map(|n| encryptor.encrypt(&frame(SIZES[(n + number) % SIZES.len()])).unwrap()).collect();
        sealed.extend(batch(&encryptor, 2));
        assert!(encryptor.stats().frames > 0);
        sealed
    });
    let sealed: Vec<_> = sealed.into_iter().flatten().collect();
    assert_eq!(encryptor.stats().frames as usize, sealed.len());
    assert_eq!(sealed.iter().collect::<HashSet<_>>().len(), sealed.len());
    let decryptor = Decryptor::new(keyed(profile, seed), Codec::Opus, Some(1 << 14)).unwrap();
    let opened: usize = at_once(|number| {
        if number % 2 == 0 {
            return sealed.iter().filter(|sealed| decryptor.decrypt(sealed).is_ok()).count();
        }
        let batch = decryptor.plan_batch(sealed.iter().rev().map(Vec::as_slice).collect());
        sealed.len() - batch.open_into(&mut vec![0; batch.max_len()], 2).failed().len()
    })
    .into_iter()
    .sum();
    assert_eq!(opened, sealed.len());
    let stats = decryptor.stats();
    assert_eq!((stats.frames as usize, stats.replayed as usize), (opened, (THREADS - 1) * opened));
}

#[test]
fn frames_of_the_trailer_open_once() {
    seals_and_opens_each_frame_once("livekit", 1);
}

#[test]
fn frames_of_the_footer_open_once() {
    seals_and_opens_each_frame_once("stream", 2);
}

#[test]
fn frames_of_sframe_open_once() {
    seals_and_opens_each_frame_once("sframe", 3);
}

#[test]
fn keys_change_while_frames_and_packets_are_sealed_and_opened() {
    let shared = keyed("livekit", 4);
    let options = Options { ratchet_window: 2, allow_export: true, ..Options::default() };
    let ring = KeyRing::new(Profile::by_name("livekit").unwrap(), options).unwrap();
    let ring = Arc::new(ring.with_fallback(Arc::clone(&shared)).unwrap());
    let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap();
    let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, Some(64)).unwrap();
    let data = DataCryptor::new(Arc::clone(&ring), true, None).unwrap();
    let change = |key_id: u64| {
        let _inside = fork::enter();
        let secret = Secret::key(&[key_id as u8 + 10; 32]).unwrap();
        ring.set(key_id, &secret).unwrap();
        ring.set_sending_key_id(key_id).unwrap();
        assert!(ring.derive_key(key_id, &secret.with_other_kdf().with_other_kdf()).unwrap().install());
        // Another thread may have removed the key.
        let _ = ring.derive_ratchet(key_id).map(|step| step.install());
        let _ = ring.ratchet(key_id).and_then(|_| ring.derive_ratchet_step(key_id));
        let _ = (ring.fingerprint(Some(key_id)), ring.export(Some(key_id)), ring.frames_sealed(key_id));
        assert!(ring.key_ids().len() <= 4 && ring.fingerprints().is_ok() && ring.generation() > 0);
        let _ = (ring.pending_ratchets(), ring.ratcheted_key_id(), ring.can_encrypt(), ring.sending_key_id());
        ring.remove(key_id);
        shared.set(0, &Secret::key(&[4; 32]).unwrap()).unwrap();
    };
    at_once(|number| {
        for n in 0..FRAMES {
            if number < 2 {
                change(number as u64 + n as u64 % 2);
                continue;
            }
            match encryptor.encrypt(&frame(SIZES[n % SIZES.len()])) {
                // The key may have changed between the two calls.
                Ok(sealed) => drop(decryptor.decrypt(&sealed)),
                Err(error) => assert!(matches!(error, EncryptError::UnknownKey { .. })),
            }
            if let Ok(packet) = data.encrypt_packet(b"a message", b"from alice") {
                let _ = data.decrypt_packet(&packet, b"from alice");
            }
            let _ = (encryptor.stats(), decryptor.stats(), data.stats(), decryptor.consecutive_failures());
        }
    });
    let stats = encryptor.stats();
    assert_eq!((stats.frames + stats.unknown_key) as usize, 2 * FRAMES);
}

#[test]
fn epochs_change_while_frames_are_sealed_and_opened() {
    let (sender, receiver) = (ring("sframe", Options::default()), ring("sframe", Options::default()));
    let set = |epoch: u64| {
        let secret = Secret::key(&[epoch as u8; 32]).unwrap();
        for (index, ring) in [&receiver, &sender].into_iter().enumerate() {
            let kid = MlsKid { epoch, epoch_bits: 4, sender_index: index as u64, sender_bits: 1, context: 0 };
            ring.set_epoch(&secret, &kid, 2).unwrap();
        }
    };
    set(100);
    let encryptor = Encryptor::new(Arc::clone(&sender), Codec::Unknown).unwrap();
    let decryptor = Decryptor::new(Arc::clone(&receiver), Codec::Unknown, None).unwrap();
    at_once(|number| {
        for n in 0..FRAMES {
            if number == 0 {
                set(101 + n as u64);
            } else {
                let sealed = encryptor.encrypt(&frame(SIZES[n % SIZES.len()])).unwrap();
                if let Ok(opened) = decryptor.decrypt(&sealed) {
                    assert_eq!(opened.len(), SIZES[n % SIZES.len()]);
                }
            }
        }
    });
    assert_eq!(encryptor.stats().frames as usize, (THREADS - 1) * FRAMES);
}

#[test]
fn a_sender_is_bound_to_one_participant() {
    let bindings = Arc::new(SenderBindings::default());
    let receiver = ring("sframe", Options { shared: true, ..Options::default() });
    receiver.set(0, &Secret::key(&[5; 32]).unwrap()).unwrap();
    for _ in 0..10 {
        let sender = ring("sframe", Options { shared: true, ..Options::default() });
        sender.set(0, &Secret::key(&[5; 32]).unwrap()).unwrap();
        let encryptor = Encryptor::new(sender, Codec::Opus).unwrap();
        let opened = at_once(|number| {
            let decryptor = Decryptor::new(Arc::clone(&receiver), Codec::Opus, None).unwrap();
            let decryptor = decryptor.with_sender(Arc::clone(&bindings), &format!("participant {number}")).unwrap();
            let opened = decryptor.decrypt(&encryptor.encrypt(&frame(30)).unwrap());
            bindings.release("a stranger");
            assert!(matches!(opened, Ok(_) | Err(DecryptError::SenderMismatch { .. })));
            opened.is_ok()
        });
        assert_eq!(opened.into_iter().filter(|opened| *opened).count(), 1);
    }
}

#[test]
fn the_trailer_of_a_server_changes_while_frames_arrive() {
    let ring = keyed("livekit", 6);
    let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap();
    let decryptor = Decryptor::new(ring, Codec::Opus, None).unwrap();
    let blank = [b"\xf8\xff\xfe".as_slice(), &[0; 77], b"LK-ROCKS"].concat();
    at_once(|number| {
        for n in 0..FRAMES {
            if number == 0 {
                decryptor.set_sif_trailer((n % 2 == 0).then_some(b"LK-ROCKS".as_slice())).unwrap();
                let _ = decryptor.sif_trailer();
            } else {
                let _ = decryptor.decrypt(&blank);
                decryptor.decrypt(&encryptor.encrypt(&frame(30)).unwrap()).unwrap();
            }
        }
    });
    assert_eq!(decryptor.stats().frames as usize, (THREADS - 1) * FRAMES);
}
