//! Tests that freed memory holds no key material.
//!
//! An allocator searches every block for two markers before it frees the block: the raw key, and the AES key derived
//! from it. It sees the heap of this crate. It does not see the stack, registers, swap, or the blocks of the crypto
//! library. That library clears every block before it frees it: see `OPENSSL_free` in AWS-LC's source.
//! `tests/unit/test_secrecy.py` looks at a whole process.
#![allow(unsafe_code, clippy::unwrap_used, missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use frameseal::profile::{LIVEKIT, SFRAME};
use frameseal::{Codec, DataCryptor, Decryptor, Encryptor, KeyRing, MlsKid, Options, Profile, Secret, hazmat};

struct Looking;

static LEAKS: AtomicUsize = AtomicUsize::new(0);
static BLOCKS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MARKERS: Cell<[[u8; 16]; 2]> = const { Cell::new([[0; 16]; 2]) };
    static WATCHING: Cell<bool> = const { Cell::new(false) };
}

fn look(block: &[u8]) {
    if WATCHING.get() {
        BLOCKS.fetch_add(1, Ordering::Relaxed);
        if block.windows(16).any(|bytes| MARKERS.get().iter().any(|marker| marker == bytes)) {
            LEAKS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: every call is passed on to the system's allocator. Blocks are read while they are still allocated. The
// program may not have written them yet, so they are allocated zeroed.
unsafe impl GlobalAlloc for Looking {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        look(unsafe { slice::from_raw_parts(block, layout.size()) });
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // A block that moves leaves its bytes behind, so each block is moved by hand and searched.
        let Ok(new) = Layout::from_size_align(size, layout.align()) else { return std::ptr::null_mut() };
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                std::ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

#[global_allocator]
static ALLOCATOR: Looking = Looking;

fn leaks_of(profile: &'static Profile, raw: &[u8; 32], work: impl FnOnce(Secret)) -> usize {
    let secret = Secret::key(raw).unwrap();
    let suite = KeyRing::new(profile, Options::default()).unwrap().suite();
    let key = hazmat::derive(profile, suite, 0, &secret).unwrap().0;
    MARKERS.set([raw[..16].try_into().unwrap(), key.try_into().unwrap()]);
    let before = (LEAKS.load(Ordering::Relaxed), BLOCKS.load(Ordering::Relaxed));
    WATCHING.set(true);
    work(secret);
    WATCHING.set(false);
    assert!(BLOCKS.load(Ordering::Relaxed) > before.1, "nothing was freed");
    LEAKS.load(Ordering::Relaxed) - before.0
}

// There is one test only, because the counters are global.
#[test]
fn no_block_is_freed_with_a_key_in_it() {
    let raw: [u8; 32] = std::array::from_fn(|n| 0xA0 ^ (n as u8).wrapping_mul(37));

    let careless = leaks_of(&LIVEKIT, &raw, |_secret| drop(raw.to_vec()));
    assert_eq!(careless, 1, "the search must find a key that leaks");

    let options = Options { ratchet_window: 4, ..Options::default() };
    let life = leaks_of(&LIVEKIT, &raw, |secret| {
        let ring = Arc::new(KeyRing::new(&LIVEKIT, options).unwrap());
        ring.set(0, &secret).unwrap();
        ring.set(0, &secret).unwrap();
        ring.set(1, &secret.clone()).unwrap();
        let sealed = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap().encrypt(b"\x78frame").unwrap();
        let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap();
        assert!(decryptor.decrypt(&sealed).is_ok());
        let mut forged = sealed.clone();
        forged[3] ^= 1;
        assert!(decryptor.decrypt(&forged).is_err());
        DataCryptor::new(Arc::clone(&ring), true, None).unwrap().encrypt(b"text", b"context").unwrap();
        let shown = format!("{ring:?} {secret:?} {:?}", ring.fingerprint(None).unwrap());
        assert!(!shown.contains(&hex::encode(&raw[..4])));
        ring.ratchet(0).unwrap();
        ring.remove(1);
        drop(decryptor);
        drop(ring);
        drop(secret);
    });
    assert_eq!(life, 0);

    let options = Options { ratchet_bits: 4, ratchet_window: 4, ..Options::default() };
    let sender_key = leaks_of(&SFRAME, &raw, |secret| {
        let [ring, behind] = [(); 2].map(|()| Arc::new(KeyRing::new(&SFRAME, options).unwrap()));
        ring.set(0, &secret).unwrap();
        ring.set(0, &secret).unwrap();
        behind.set(0, &secret).unwrap();
        let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap();
        let decryptor = Decryptor::new(Arc::clone(&behind), Codec::Opus, None).unwrap();
        for kid in 0..3 {
            assert!(decryptor.decrypt(&encryptor.encrypt(b"\x78frame").unwrap()).is_ok());
            DataCryptor::new(Arc::clone(&ring), true, None).unwrap().encrypt_packet(b"text", b"context").unwrap();
            ring.fingerprint(None).unwrap();
            assert_eq!(ring.ratchet(kid), Ok(kid + 1));
        }
    });
    assert_eq!(sender_key, 0);

    let families = leaks_of(&SFRAME, &raw, |secret| {
        let epochs = KeyRing::new(&SFRAME, Options::default()).unwrap();
        for epoch in 0..3 {
            let kid = MlsKid { epoch, epoch_bits: 4, ..MlsKid::default() };
            epochs.set_epoch(&secret, &kid, 1).unwrap();
        }
        let shared = Options { shared: true, ..Options::default() };
        let [alice, bob] = [(); 2].map(|()| Arc::new(KeyRing::new(&SFRAME, shared).unwrap()));
        alice.set(0, &secret).unwrap();
        bob.set(0, &secret).unwrap();
        let sealed = Encryptor::new(Arc::clone(&alice), Codec::Opus).unwrap().encrypt(b"\x78frame").unwrap();
        assert!(Decryptor::new(Arc::clone(&bob), Codec::Opus, None).unwrap().decrypt(&sealed).is_ok());
        alice.fingerprint(None).unwrap();
        bob.set(0, &secret).unwrap();
    });
    assert_eq!(families, 0);
}
