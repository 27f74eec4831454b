//! Checks properties that must hold for any input. The first byte of an input chooses a ring (high half) and a codec
//! (low half). The others are the frame, so a corpus can contain unchanged frames of other implementations.

mod codec;
mod differential;
mod injected;
mod keyring;
mod model;
mod program;
mod reference;
mod spelling;
mod wire;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use frameseal::profile::{JITSI, LIVEKIT, NEXTCLOUD, SFRAME, STREAM};
use frameseal::{Codec, DataCryptor, Decryptor, Encryptor, KeyError, KeyRing, Options, Profile, Secret};

pub use codec::codec;
pub use differential::differential;
pub use injected::injected;
pub use keyring::keyring;
pub use spelling::spelling;
pub use wire::wire;

/// A ring with the passphrase of most frames in tests/vectors/livekit*.json. The derivation is slow, so all inputs
/// share one ring. It has no ratchet window, so no input changes it.
static PASSPHRASE: LazyLock<Arc<KeyRing>> = LazyLock::new(|| {
    let ring = KeyRing::new(&LIVEKIT, Options::default()).expect("the default options are valid");
    for key_id in [0, 15] {
        ring.set(key_id, &Secret::passphrase(b"my-shared-secret").expect("the passphrase is not empty"))
            .expect("the key id is in range");
    }
    Arc::new(ring)
});

/// The counter at which the next ring starts.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A ring of the profile whose key is the AES key, with keys of both lengths. They are those of most frames in
/// tests/vectors/stream.json.
fn raw_keys() -> Arc<KeyRing> {
    let ring = KeyRing::new(&STREAM, Options::default()).expect("the default options are valid");
    let key = (0..32).collect::<Vec<u8>>();
    for (key_id, len) in [(0, 16), (255, 16), (9, 32), (200, 32)] {
        let secret = Secret::key(&key[..len]).expect("the key is long enough");
        ring.set(key_id, &secret).expect("the key has the length of an AES key");
    }
    Arc::new(ring)
}

/// Returns one ring for each kind of key look-up: by key id, with a ratchet search, by KID, by ratchet step, by sender,
/// by key id with keys of two lengths. Returns `None` for any other number.
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
        7 => return Some(raw_keys()),
        8 => (&NEXTCLOUD, ahead, 0),
        _ => return None,
    };
    let ring = KeyRing::new(profile, options).expect("the options are valid for the profile");
    let secret = Secret::key(&(0..32).collect::<Vec<u8>>()).expect("the key is long enough");
    // Every input has its own ring with the same key. The core refuses a counter that was used in this process.
    let counted = profile.name == "sframe" && !options.shared;
    while let Err(error) = ring.set_from(key_id, &secret, counted.then(|| COUNTER.fetch_add(16, Ordering::Relaxed))) {
        assert!(
            matches!(error, KeyError::CounterUsed { .. }),
            "only another thread may have used the counter: {error}"
        );
    }
    Some(Arc::new(ring))
}

fn split(input: &[u8]) -> Option<(Arc<KeyRing>, Codec, &[u8])> {
    let (&chosen, frame) = input.split_first()?;
    let codec = Codec::ALL.get(usize::from(chosen & 0x0F)).copied().unwrap_or(Codec::Unknown);
    Some((ring(chosen >> 4)?, codec, frame))
}

/// Checks that a received frame opens, or fails with one error that is counted once and leaves no plaintext behind.
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

/// Checks that an encoder's frame is refused, held back, or sealed so that it opens. It opens to the same bytes. In all
/// layouts but SFrame, H.264 and H.265 open to a normal form. It stays the same when it is sealed and opened again.
///
/// Returns the sealed frame.
pub fn seal(input: &[u8]) -> Option<Vec<u8>> {
    let (ring, codec, frame) = split(input)?;
    // The trailer layout escapes the sealed part on its own. A slice whose second byte is zero can therefore form a
    // start code with the ciphertext by chance. No encoder writes a first slice with this byte.
    let escapes_alone = ring.profile().layout() == "trailer" && matches!(codec, Codec::H264 | Codec::H265);
    if escapes_alone && frame.windows(5).any(|at| matches!(at, [0, 0, 1, _, 0])) {
        return None;
    }
    let encryptor = Encryptor::new(Arc::clone(&ring), codec).ok()?;
    let decryptor = Decryptor::new(ring, codec, None).ok()?;
    let through = |frame: &[u8]| {
        let sealed = encryptor.encrypt(frame).ok().filter(|sealed| !sealed.is_empty())?;
        let opened = decryptor.decrypt(&sealed).expect("a sealed frame opens");
        Some((sealed, opened))
    };
    let (sealed, opened) = through(frame)?;
    if opened != frame {
        assert!(matches!(codec, Codec::H264 | Codec::H265));
        assert_eq!(through(&opened).map(|(_, again)| again).as_ref(), Some(&opened));
    }
    Some(sealed)
}

/// Checks that a message opens from its packet, and that a received packet opens or fails with an error. One layout has
/// no packets.
///
/// Returns the opened message.
pub fn packet(input: &[u8]) -> Option<Vec<u8>> {
    let (ring, _, bytes) = split(input)?;
    let cryptor = DataCryptor::new(ring, false, Some(0)).ok()?;
    let packet = cryptor.encrypt_packet(bytes, b"").expect("the ring has a key");
    assert_eq!(cryptor.decrypt_packet(&packet, b"").as_deref(), Ok(bytes));
    cryptor.decrypt_packet(bytes, b"").ok()
}
