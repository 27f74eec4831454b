//! Tests that a child can use every object that other threads used while it was forked.
#![cfg(unix)]
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use frameseal::{Codec, DataCryptor, Decryptor, Encryptor, KeyRing, Options, Profile, Secret, fork};

const CHILDREN: usize = 50;
/// The seconds after which a hanging child is killed. A child needs far less on any machine.
const MAX_SECONDS: u32 = 60;

/// Forks, and returns the bytes that the child wrote. Fails unless the child ended by itself.
#[allow(unsafe_code)]
fn in_a_child(work: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let mut ends = [0; 2];
    // SAFETY: `pipe` writes two descriptors that nobody else owns. Each is closed by the one `File` that owns it. The
    // child ends with `_exit`, so it runs no other code of this process after `work`.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            libc::alarm(MAX_SECONDS);
            let done = catch_unwind(AssertUnwindSafe(|| File::from_raw_fd(ends[1]).write_all(&work()).unwrap()));
            libc::_exit(i32::from(done.is_err()));
        }
        drop(File::from_raw_fd(ends[1]));
        let mut written = Vec::new();
        File::from_raw_fd(ends[0]).read_to_end(&mut written).unwrap();
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        assert_eq!(status, 0, "the child did not exit by itself");
        written
    }
}

struct Call {
    ring: Arc<KeyRing>,
    encryptor: Encryptor,
    decryptor: Decryptor,
    data: DataCryptor,
    /// Every IV with which this process has sealed.
    ivs: Mutex<Vec<u8>>,
}

impl Call {
    fn new() -> Self {
        let options = Options { ratchet_window: 2, ..Options::default() };
        let ring = Arc::new(KeyRing::new(Profile::by_name("livekit").unwrap(), options).unwrap());
        ring.set(0, &Secret::key(&[7; 32]).unwrap()).unwrap();
        let (encryptor, decryptor) = (
            Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap(),
            Decryptor::new(Arc::clone(&ring), Codec::Opus, Some(1_000)).unwrap(),
        );
        let data = DataCryptor::new(Arc::clone(&ring), false, None).unwrap();
        Self { ring, encryptor, decryptor, data, ivs: Mutex::default() }
    }

    fn note(&self, sealed: &[u8]) {
        let iv = sealed.len() - 14..sealed.len() - 2;
        self.ivs.lock().unwrap().extend_from_slice(sealed.get(iv).unwrap());
    }

    fn batch(&self, threads: usize) {
        let frames = vec![[0x78; 900].as_slice(); 600];
        let batch = self.encryptor.plan_batch(frames, threads).unwrap();
        let mut sealed = vec![0; batch.max_len()];
        batch.seal_into(&mut sealed, threads).unwrap();
        let mut sealed: Vec<Vec<u8>> = sealed.chunks(930).map(<[u8]>::to_vec).collect();
        sealed.iter().for_each(|sealed| self.note(sealed));
        // Failed frames leave an error of the crypto library in the state of their thread.
        sealed.iter_mut().step_by(50).for_each(|sealed| sealed[900] ^= 1);
        let batch = self.decryptor.plan_batch(sealed.iter().map(Vec::as_slice).collect());
        let mut opened = vec![0; batch.max_len()];
        batch.open_into(&mut opened, threads);
    }

    /// Runs batches, whose threads start and end all the time.
    fn short_batches(&self) {
        for _ in 0..20 {
            let batch = self.encryptor.plan_batch(vec![b"\x78 short".as_slice(); 130], 2).unwrap();
            batch.seal_into(&mut vec![0; batch.max_len()], 2).unwrap();
        }
    }

    fn singly(&self) {
        let _inside = fork::enter();
        self.ring.set(1, &Secret::key(&[8; 32]).unwrap()).unwrap();
        // Another thread may have removed the key.
        let _ = self.ring.ratchet(1).and_then(|_| self.ring.derive_ratchet_step(1));
        for len in [100, 200_000] {
            let sealed = self.encryptor.encrypt(&vec![0x78; len]).unwrap();
            self.note(&sealed);
            self.decryptor.decrypt(&sealed).unwrap();
        }
        self.data.decrypt_packet(&self.data.encrypt_packet(b"message", b"").unwrap(), b"").unwrap();
        self.ring.remove(1);
    }

    /// Uses the same objects in the child, and returns the IVs.
    fn go_on(&self) -> Vec<u8> {
        // Another thread may hold the lock of the test itself.
        let call = Self {
            ring: Arc::clone(&self.ring),
            encryptor: Encryptor::new(Arc::clone(&self.ring), Codec::Opus).unwrap(),
            decryptor: Decryptor::new(Arc::clone(&self.ring), Codec::Opus, Some(1_000)).unwrap(),
            data: DataCryptor::new(Arc::clone(&self.ring), false, None).unwrap(),
            ivs: Mutex::default(),
        };
        call.batch(3);
        call.singly();
        // The tracks that the parent used.
        let sealed = self.encryptor.encrypt(b"\x78 mine").unwrap();
        assert_eq!(self.decryptor.decrypt(&sealed).unwrap(), b"\x78 mine");
        self.data.decrypt_packet(&self.data.encrypt_packet(b"message", b"").unwrap(), b"").unwrap();
        assert!(self.ring.frames_sealed(0).unwrap() > 0 && self.ring.key_ids().contains(&0));
        assert!(self.encryptor.stats().frames > 0 && self.decryptor.stats().frames > 0);
        call.note(&sealed);
        call.ivs.into_inner().unwrap()
    }
}

/// There is one test only, because the threads of another test would start and end while this test forks.
#[test]
fn a_child_forked_while_threads_are_inside_goes_on_and_repeats_no_nonce() {
    children_of_busy_threads_repeat_no_nonce();
    a_thread_that_forks_waits_neither_for_its_own_guard_nor_for_a_batch_under_one();
    whoever_arrives_while_a_fork_waits_goes_in_after_it();
    a_child_can_set_and_drop_keys_whatever_was_dropped_during_the_fork();
}

fn children_of_busy_threads_repeat_no_nonce() {
    let (call, stop) = (Call::new(), AtomicBool::new(false));
    let begun = Barrier::new(5);
    let childrens: Vec<Vec<u8>> = thread::scope(|scope| {
        let busy: [fn(&Call); 4] = [|call| call.batch(4), |call| call.batch(1), Call::short_batches, Call::singly];
        for work in busy {
            let (call, begun, stop) = (&call, &begun, &stop);
            scope.spawn(move || {
                work(call);
                begun.wait();
                while !stop.load(Ordering::Relaxed) {
                    work(call);
                }
            });
        }
        begun.wait();
        let made = catch_unwind(AssertUnwindSafe(|| (0..CHILDREN).map(|_| in_a_child(|| call.go_on())).collect()));
        stop.store(true, Ordering::Relaxed);
        made.unwrap()
    });
    let parents = call.ivs.into_inner().unwrap();
    let all: Vec<&[u8]> = childrens.iter().chain([&parents]).flat_map(|ivs| ivs.chunks(12)).collect();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
}

fn a_thread_that_forks_waits_neither_for_its_own_guard_nor_for_a_batch_under_one() {
    let call = Call::new();
    let held = fork::enter();
    assert_eq!(in_a_child(|| vec![u8::from(!call.go_on().is_empty())]), [1]);
    let nested = fork::enter();
    drop(held);
    drop(nested);
    assert_eq!(in_a_child(|| vec![u8::from(!call.go_on().is_empty())]), [1]);
    // A fork waits for the guard. The batch under the guard does not wait.
    let begun = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _inside = fork::enter();
            begun.wait();
            (0..20).for_each(|_| call.batch(4));
        });
        begun.wait();
        in_a_child(|| call.go_on());
    });
}

fn whoever_arrives_while_a_fork_waits_goes_in_after_it() {
    let call = Call::new();
    let begun = Barrier::new(3);
    let forked = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                begun.wait();
                while !forked.load(Ordering::Relaxed) {
                    call.singly(); // without a pause, so that some thread is always inside
                }
            });
        }
        begun.wait();
        let made = catch_unwind(AssertUnwindSafe(|| in_a_child(|| call.go_on())));
        forked.store(true, Ordering::Relaxed);
        made.unwrap();
    });
}

fn a_child_can_set_and_drop_keys_whatever_was_dropped_during_the_fork() {
    let ring = |keys: u64| {
        let ring = KeyRing::new(Profile::by_name("sframe").unwrap(), Options::default()).unwrap();
        (0..keys).for_each(|kid| ring.set(kid, &Secret::key(b"a key that nobody seals with").unwrap()).unwrap());
        ring
    };
    let large = ring(20_000);
    let begun = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            begun.wait();
            // Dropped without a guard, as programs do.
            drop(large);
        });
        begun.wait();
        for _ in 0..CHILDREN {
            assert_eq!(in_a_child(|| vec![u8::try_from(ring(3).key_ids().len()).unwrap()]), [3]);
        }
    });
}
