//! Races that ThreadSanitizer must report. `run.py` fails if it does not.
//!
//! Each test is ignored, because it is a fault. It runs by name.

use std::cell::UnsafeCell;
use std::sync::{Arc, Barrier};
use std::thread;

use frameseal::{Codec, Decryptor, Encryptor, KeyRing, Options, Profile, Secret};

/// Memory that two threads use without a lock.
struct Shared<T>(UnsafeCell<T>);

// SAFETY: there is none, which is the point. The program has a data race.
unsafe impl<T> Sync for Shared<T> {}

/// Runs `work` in two threads, which begin each of 100 rounds at the same time.
fn twice(work: impl Fn(usize) + Sync) {
    let begin = Barrier::new(2);
    thread::scope(|scope| {
        for number in 0..2 {
            let (work, begin) = (&work, &begin);
            scope.spawn(move || {
                for _ in 0..100 {
                    // ThreadSanitizer remembers the newest accesses of a thread only, so the two stay side by side.
                    begin.wait();
                    work(number);
                }
            });
        }
    });
}

fn ring() -> Arc<KeyRing> {
    let ring = KeyRing::new(Profile::by_name("livekit").unwrap(), Options::default()).unwrap();
    ring.set(0, &Secret::key(&[7; 32]).unwrap()).unwrap();
    Arc::new(ring)
}

#[test]
#[ignore = "has a race"]
fn in_rust() {
    let count = Shared(UnsafeCell::new(0_u64));
    twice(|_| {
        let count = &count;
        // SAFETY: the memory is valid. The two threads race.
        unsafe { *count.0.get() += 1 }
    });
}

#[test]
#[ignore = "has a race"]
fn in_the_crypto_library() {
    let frame = Shared(UnsafeCell::new([0_u8; 64]));
    twice(|_| {
        let frame = &frame;
        // SAFETY: the memory is valid. The two threads race: the library's C code writes to it in both.
        aws_lc_rs::rand::fill(unsafe { &mut *frame.0.get() }).unwrap();
    });
}

#[test]
#[ignore = "has a race"]
fn in_the_output_of_an_open_plan() {
    let ring = ring();
    let (encryptor, out) =
        (Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap(), Shared(UnsafeCell::new([0; 20_000])));
    let frame = [0x78; 20_000];
    let sealed = encryptor.encrypt(&frame).unwrap();
    let decryptor = Decryptor::new(ring, Codec::Opus, Some(0)).unwrap();
    twice(|_| {
        let out = &out;
        let plan = decryptor.plan(&sealed, &[]).unwrap().unwrap();
        // SAFETY: the memory is valid. The two threads race: both open into the same buffer.
        plan.open_into(unsafe { &mut *out.0.get() }).unwrap();
    });
}
