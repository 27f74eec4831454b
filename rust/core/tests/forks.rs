//! Tests real forks: parent, children and grandchildren seal with the same keys, and no nonce repeats.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use frameseal::profile::{LIVEKIT, NEXTCLOUD, SFRAME, STREAM};
use frameseal::{Codec, DataCryptor, EncryptError, Encryptor, KeyRing, MlsKid, Options, Secret, hazmat};

/// One nonce on the wire: base key, ratchet steps, KID, and IV or counter. Its size is fixed, so that one write to a
/// pipe is one nonce.
type Nonce = [u8; 1 + 1 + 8 + 12];

/// The way to set the key of a ring, and to distinguish its frames from the frames of other rings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Livekit,
    Nextcloud,
    Stream,
    Plain,
    /// The ring seals nothing with the key before the fork.
    Unused,
    Continued,
    Ratchet,
    Shared,
    Epoch,
}

const WAYS: [Way; 9] = [
    Way::Livekit,
    Way::Nextcloud,
    Way::Stream,
    Way::Plain,
    Way::Unused,
    Way::Continued,
    Way::Ratchet,
    Way::Shared,
    Way::Epoch,
];

/// The ways whose frames hold the whole IV. Its random bits are drawn again in a child.
const IV_WAYS: [Way; 3] = [Way::Livekit, Way::Nextcloud, Way::Stream];

impl Way {
    fn ring(self) -> Arc<KeyRing> {
        let options = match self {
            Self::Ratchet => Options { ratchet_bits: 4, ..Options::default() },
            Self::Shared => Options { shared: true, ..Options::default() },
            _ => Options::default(),
        };
        let profile = match self {
            Self::Livekit => &LIVEKIT,
            Self::Nextcloud => &NEXTCLOUD,
            Self::Stream => &STREAM,
            _ => &SFRAME,
        };
        Arc::new(KeyRing::new(profile, options).unwrap())
    }

    fn set(self, ring: &KeyRing) {
        let secret = Secret::key(&[b"the base key that forks.rs uses".as_slice(), &[self as u8]].concat()).unwrap();
        match self {
            Self::Epoch => {
                let kid = MlsKid { epoch: 3, epoch_bits: 4, sender_index: 1, sender_bits: 2, context: 0 };
                ring.set_epoch(&secret, &kid, 1).map(|_| ()).unwrap();
            }
            Self::Continued => ring.set_from(0, &secret, Some(1000)).unwrap(),
            _ => ring.set(0, &secret).unwrap(),
        }
    }

    /// Seals frames and data packets. Returns the number of nonces written, which is 0 if every call was refused.
    fn seal(self, ring: &Arc<KeyRing>, steps: u8, nonces: &mut File) -> usize {
        let encryptor = Encryptor::new(Arc::clone(ring), Codec::Opus).unwrap();
        let cryptor = (self != Self::Stream).then(|| DataCryptor::new(Arc::clone(ring), false, None).unwrap());
        let frames = (0..3).map(|_| (encryptor.encrypt(b"\x78frame"), false));
        let packet = cryptor.map(|cryptor| (cryptor.encrypt_packet(b"packet", b""), true));
        let sealed: Vec<_> = frames.chain(packet).collect();
        let refused = sealed.iter().filter(|(sealed, _)| matches!(sealed, Err(EncryptError::KeyExhausted { .. })));
        assert!([0, sealed.len()].contains(&refused.count()));
        let sealed: Vec<_> = sealed.into_iter().filter_map(|(sealed, packet)| Some((sealed.ok()?, packet))).collect();
        for (bytes, packet) in &sealed {
            let mut nonce: Nonce = [0; 22];
            nonce[..2].copy_from_slice(&[self as u8, steps]);
            if self == Self::Stream {
                nonce[10..].copy_from_slice(&bytes[bytes.len() - 20..][..12]);
            } else if IV_WAYS.contains(&self) {
                nonce[10..].copy_from_slice(if *packet { &bytes[3..15] } else { &bytes[bytes.len() - 14..][..12] });
            } else {
                let (kid, ctr, _) = hazmat::parse_header(bytes).unwrap();
                nonce[2..10].copy_from_slice(&kid.to_be_bytes());
                nonce[14..].copy_from_slice(&ctr.to_be_bytes());
            }
            nonces.write_all(&nonce).unwrap();
        }
        sealed.len()
    }
}

/// Seals in one process of the family. `is_child` is true if the process inherited the rings.
fn seal_all(rings: &[Arc<KeyRing>], is_child: bool, nonces: &mut File) {
    for (way, ring) in WAYS.into_iter().zip(rings) {
        let sealed = way.seal(ring, 0, nonces);
        // Only sources that draw random bits again continue.
        assert_eq!(sealed > 0, !is_child || way == Way::Shared || IV_WAYS.contains(&way), "way {}", way as u8);
        if way != Way::Continued {
            way.set(ring);
            way.seal(ring, 0, nonces);
            let another = way.ring();
            way.set(&another);
            way.seal(&another, 0, nonces);
        }
        if way == Way::Ratchet {
            ring.ratchet(0).unwrap();
            way.seal(ring, 1, nonces);
        }
    }
}

/// Runs `work` in a child, which ends afterwards. Returns the process id.
#[allow(unsafe_code)]
fn forked(work: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child runs on its own copies of the stack and the heap. The only lock that it shares with other
    // threads is the allocator's, which the C library releases in a child.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let done = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: no argument is a pointer.
            unsafe { libc::alarm(120) };
            work();
        }));
        // SAFETY: as above. It ends the child before the test runner could continue in it.
        unsafe { libc::_exit(i32::from(done.is_err())) };
    }
    child
}

#[allow(unsafe_code)]
fn wait_for(child: libc::pid_t) {
    let mut status = -1;
    // SAFETY: `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "a child has failed");
}

#[allow(unsafe_code)]
fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: the array has two elements for two descriptors, which have no other owner.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

#[test]
fn no_nonce_comes_twice_in_a_process_and_all_that_are_forked_from_it() {
    let rings: Vec<_> = WAYS.into_iter().map(Way::ring).collect();
    let (mut written, mut nonces) = pipe();
    for (way, ring) in WAYS.into_iter().zip(&rings) {
        way.set(ring);
        if way != Way::Unused && way != Way::Ratchet {
            way.seal(ring, 0, &mut nonces);
        }
    }
    let children = [(); 3].map(|()| {
        forked(|| {
            let grandchild = {
                let mut nonces = nonces.try_clone().unwrap();
                let rings = &rings;
                move || seal_all(rings, true, &mut nonces)
            };
            seal_all(&rings, true, &mut nonces.try_clone().unwrap());
            wait_for(forked(grandchild));
        })
    });
    seal_all(&rings, false, &mut nonces);
    children.into_iter().for_each(wait_for);

    drop(nonces);
    let mut all = Vec::new();
    written.read_to_end(&mut all).unwrap();
    let mut times: BTreeMap<&[u8], usize> = BTreeMap::new();
    all.chunks_exact(size_of::<Nonce>()).for_each(|nonce| *times.entry(nonce).or_default() += 1);
    // Seven processes sealed at least with the four ways that draw again (IVs, shared): three times, with three nonces
    // or more each time.
    assert!(times.len() >= 7 * 4 * 3 * 3, "{}", times.len());
    let repeated: Vec<_> = times.into_iter().filter(|&(_, times)| times > 1).collect();
    assert!(repeated.is_empty(), "{repeated:?}");
}
