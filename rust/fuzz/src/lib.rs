//! What must hold for any bytes. The first byte of an input chooses a ring (high half) and a codec (low half); the others
//! are the frame, so a corpus can hold frames of other implementations as they are.

mod keyring;
mod model;
mod program;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use frameseal::profile::{JITSI, LIVEKIT, SFRAME};
use frameseal::{Codec, DataCryptor, Decryptor, Encryptor, KeyError, KeyRing, Options, Profile, Secret};

pub use keyring::keyring;

/// The passphrase under which most frames in tests/vectors/livekit*.json are sealed. Its derivation is slow, so one ring
/// serves all inputs; without a ratchet window none changes it.
static PASSPHRASE: LazyLock<Arc<KeyRing>> = LazyLock::new(|| {
    let ring = KeyRing::new(&LIVEKIT, Options::default()).expect("the default options");
    for key_id in [0, 15] {
        ring.set(key_id, &Secret::passphrase(b"my-shared-secret").expect("it is not empty")).expect("it is in range");
    }
    Arc::new(ring)
});

/// Where the next ring goes on from.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// One ring for each way in which keys are found: as it is, ahead of a search, under a KID, a step of one, a sender.
fn ring(number: u8) -> Option<Arc<KeyRing>> {
    let plain = Options::default();
    let ahead = Options { ratchet_window: 3, ..plain };
    let (profile, options, key_id): (&'static Profile, Options, u64) = match number {
        0 => return Some(Arc::clone(&PASSPHRASE)),
        1 => (&LIVEKIT, ahead, 0),
        2 => (&JITSI, ahead, 0),
        3 => (&SFRAME, plain, 0x123),
        4 => (&SFRAME, Options { suite: Some(1), ..plain }, 0x123),
        5 => (&SFRAME, Options { ratchet_bits: 4, ..ahead }, 0x120),
        6 => (&SFRAME, Options { shared: true, ..plain }, 3),
        _ => return None,
    };
    let ring = KeyRing::new(profile, options).expect("options that fit");
    let secret = Secret::key(&(0..32).collect::<Vec<u8>>()).expect("it is long enough");
    // Every input has a ring of its own with the same key, and the core lets no counter come twice in a process.
    let counted = profile.name == "sframe" && !options.shared;
    while let Err(error) = ring.set_from(key_id, &secret, counted.then(|| COUNTER.fetch_add(16, Ordering::Relaxed))) {
        assert!(matches!(error, KeyError::CounterUsed { .. }), "another thread has gone further: {error}");
    }
    Some(Arc::new(ring))
}

fn split(input: &[u8]) -> Option<(Arc<KeyRing>, Codec, &[u8])> {
    let (&chosen, frame) = input.split_first()?;
    let codec = Codec::ALL.get(usize::from(chosen & 0x0F)).copied().unwrap_or(Codec::Unknown);
    Some((ring(chosen >> 4)?, codec, frame))
}

/// A received frame opens or is one error, which is counted once, and what does not open leaves nothing behind.
///
/// Returns the opened frame.
pub fn open(input: &[u8]) -> Option<Vec<u8>> {
    let (ring, codec, sealed) = split(input)?;
    let decryptor = Decryptor::new(ring, codec, Some(0)).ok()?;
    let opened = decryptor.decrypt(sealed);
    let stats = decryptor.stats();
    let failures = stats.malformed + stats.unknown_key + stats.authentication_failed;
    assert_eq!((stats.frames + stats.empty, failures), if opened.is_ok() { (1, 0) } else { (0, 1) });

    if let Ok(Some(plan)) = decryptor.plan(sealed, &[]) {
        let mut out = vec![0xAA; plan.frame_len()];
        assert!(out.len() < sealed.len());
        match plan.open_into(&mut out) {
            Ok(()) => assert_eq!(Ok(&out), opened.as_ref()),
            Err(error) => {
                assert_eq!(Err(error), opened);
                assert!(out.iter().all(|&byte| byte == 0));
            }
        }
    }
    opened.ok()
}

/// What an encoder hands over is refused, held back, or sealed so that it opens: as it was or, H.264 and H.265 in the
/// trailer profiles, in a form that stays as it is from then on.
///
/// Returns the sealed frame.
pub fn seal(input: &[u8]) -> Option<Vec<u8>> {
    let (ring, codec, frame) = split(input)?;
    // The format escapes what is sealed as a run of its own, so a slice that begins with such a byte can, by chance, make
    // a start code with the ciphertext behind it. No first slice of an encoder does.
    if matches!(codec, Codec::H264 | Codec::H265) && frame.windows(5).any(|at| matches!(at, [0, 0, 1, _, 0])) {
        return None;
    }
    let encryptor = Encryptor::new(Arc::clone(&ring), codec).ok()?;
    let decryptor = Decryptor::new(ring, codec, None).ok()?;
    let through = |frame: &[u8]| {
        let sealed = encryptor.encrypt(frame).ok().filter(|sealed| !sealed.is_empty())?;
        let opened = decryptor.decrypt(&sealed).expect("what was sealed opens");
        Some((sealed, opened))
    };
    let (sealed, opened) = through(frame)?;
    if opened != frame {
        assert!(matches!(codec, Codec::H264 | Codec::H265));
        assert_eq!(through(&opened).map(|(_, again)| again).as_ref(), Some(&opened));
    }
    Some(sealed)
}

/// A message comes back from its packet, and a received packet opens or is an error.
///
/// Returns the opened message.
pub fn packet(input: &[u8]) -> Option<Vec<u8>> {
    let (ring, _, bytes) = split(input)?;
    let cryptor = DataCryptor::new(ring, false, Some(0)).ok()?;
    let packet = cryptor.encrypt_packet(bytes, b"").expect("there is a key");
    assert_eq!(cryptor.decrypt_packet(&packet, b"").as_deref(), Ok(bytes));
    cryptor.decrypt_packet(bytes, b"").ok()
}
