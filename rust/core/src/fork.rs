//! Tells a forked child from its parent, and leaves it no lock that nobody will release.
//!
//! `fork` copies one thread. A lock that another thread holds at that moment stays locked in the child for ever: the locks
//! of rings and tracks, and those of the crypto library's random generator. So a thread that may hold one [enters](enter)
//! first. A fork waits until no thread is inside, and a thread that arrives meanwhile waits for the fork.
//!
//! Two things are not noticed: a fork that passes the handlers of `pthread_atfork` by (a raw system call), and the end of a
//! thread that is not this crate's. What the crypto library keeps for a thread goes then, under a lock of its own, for some
//! 100 ns.

#[cfg(unix)]
pub use unix::{Inside, enter};
#[cfg(unix)]
pub(crate) use unix::{Starting, generation, is_inside, join};

#[cfg(all(unix, feature = "hazmat"))]
pub(crate) use unix::in_child;

#[cfg(not(unix))]
pub use elsewhere::{Inside, enter};
#[cfg(not(unix))]
pub(crate) use elsewhere::{Starting, generation, is_inside, join};

#[cfg(unix)]
mod unix {
    use std::cell::Cell;
    use std::marker::PhantomData;
    use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
    use std::thread;
    use std::time::Duration;

    use crate::error::KeyError;

    static GENERATION: AtomicU32 = AtomicU32::new(0);
    static WATCHED: AtomicBool = AtomicBool::new(false);

    /// Counts the threads inside (low half) and the forks under way (high half). One number, so that a thread which enters
    /// and a fork which begins cannot miss each other.
    static GATE: AtomicU64 = AtomicU64::new(0);
    const FORK: u64 = 1 << 32;

    /// Sleep between two looks at the gate: a fork takes longer.
    const LOOK_AGAIN: Duration = Duration::from_micros(50);

    thread_local! {
        /// Counts the guards of this thread. The first one is counted at the gate.
        static DEPTH: Cell<u32> = const { Cell::new(0) };
    }

    /// Keeps forks of this process waiting as long as it lives.
    #[must_use]
    pub struct Inside {
        counted: bool,
        /// Belongs to its thread.
        _thread: PhantomData<*const ()>,
    }

    /// Keeps forks of this process waiting until the guard is dropped; while one is under way, waits for it.
    ///
    /// A program that calls this crate in one thread and `fork`s in another holds a guard during each call. Then the child
    /// can use every ring, encryptor and decryptor. Batches enter by themselves, and let forks pass between chunks of
    /// their frames. Guards nest, and a thread that forks does not wait for its own.
    pub fn enter() -> Inside {
        let outermost = DEPTH.get() == 0;
        if outermost {
            // If the handlers cannot be registered, no key can be set: see `generation`.
            let _ = generation();
            while GATE.fetch_add(1, Ordering::SeqCst) >= FORK {
                GATE.fetch_sub(1, Ordering::SeqCst);
                while GATE.load(Ordering::SeqCst) >= FORK {
                    thread::sleep(LOOK_AGAIN);
                }
            }
        }
        DEPTH.set(DEPTH.get() + 1);
        Inside { counted: outermost, _thread: PhantomData }
    }

    /// Whether this thread has a guard.
    pub(crate) fn is_inside() -> bool {
        DEPTH.get() != 0
    }

    /// Counts this thread in with one that has a guard and waits for it.
    pub(crate) fn join() -> Inside {
        DEPTH.set(DEPTH.get() + 1);
        Inside { counted: false, _thread: PhantomData }
    }

    /// Keeps forks waiting until another thread drops it.
    pub(crate) struct Starting(());

    impl Inside {
        /// Keeps forks waiting while a thread starts, until that thread drops what this returns.
        pub(crate) fn starting(&self) -> Starting {
            GATE.fetch_add(1, Ordering::SeqCst); // no fork is under way while this thread is inside
            Starting(())
        }
    }

    impl Drop for Starting {
        fn drop(&mut self) {
            GATE.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Drop for Inside {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get().saturating_sub(1));
            if self.counted {
                GATE.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    extern "C" fn before() {
        let own = u64::from(is_inside());
        GATE.fetch_add(FORK, Ordering::SeqCst);
        while GATE.load(Ordering::SeqCst) % FORK > own {
            thread::sleep(LOOK_AGAIN);
        }
    }

    extern "C" fn in_parent() {
        // Checked: a C library may run this handler for a fork that began before it was registered.
        let _ = GATE.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |gate| gate.checked_sub(FORK));
    }

    pub(crate) extern "C" fn in_child() {
        // Neither another thread nor a fork of one is left.
        GATE.store(u64::from(is_inside()), Ordering::SeqCst);
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many forks lie between this process and the one that loaded the library.
    #[inline(always)]
    pub(crate) fn generation() -> Result<u32, KeyError> {
        if WATCHED.load(Ordering::Relaxed) || watch() {
            Ok(GENERATION.load(Ordering::Relaxed))
        } else {
            Err(KeyError::Unavailable)
        }
    }

    /// Registers the handlers, without a lock that a fork could catch: registering them twice does no harm.
    #[cold]
    fn watch() -> bool {
        // SAFETY: the handlers live as long as the program. They touch atomics and a thread-local number that has no
        // destructor; the one that sleeps runs in the parent, before the fork.
        #[allow(unsafe_code)]
        let watched = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) } == 0;
        WATCHED.fetch_or(watched, Ordering::Relaxed) || watched
    }
}

#[cfg(not(unix))]
mod elsewhere {
    //! No `fork` on this platform.

    use std::marker::PhantomData;

    use crate::error::KeyError;

    /// Keeps forks waiting, on platforms that have them.
    #[must_use]
    pub struct Inside(PhantomData<*const ()>);

    pub(crate) struct Starting(());

    impl Inside {
        pub(crate) fn starting(&self) -> Starting {
            Starting(())
        }
    }

    /// Does nothing: there is no `fork` on this platform.
    pub fn enter() -> Inside {
        Inside(PhantomData)
    }

    pub(crate) fn is_inside() -> bool {
        false
    }

    pub(crate) fn join() -> Inside {
        enter()
    }

    #[inline(always)]
    pub(crate) fn generation() -> Result<u32, KeyError> {
        Ok(0)
    }
}
