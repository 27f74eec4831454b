//! Distinguishes a forked child from its parent, and keeps locks out of the child that no thread would release.
//!
//! `fork` copies one thread. A lock that another thread holds at that moment stays locked in the child for ever. This
//! concerns the locks of rings, of tracks, and of the crypto library. A thread that may hold a lock therefore
//! [enters](enter) first. A fork waits until no thread is inside, and a thread that enters meanwhile
//! waits for the fork.
//!
//! Two events are not detected. A raw system call forks without the handlers of `pthread_atfork`. And a thread that
//! another library started may end during a fork: for about 100 ns the crypto library then holds a lock to free its
//! state.

#[cfg(unix)]
pub use unix::{Inside, enter};
#[cfg(unix)]
pub(crate) use unix::{Starting, generation, is_inside, join};

#[cfg(all(unix, feature = "hazmat"))]
pub(crate) use unix::in_child;
#[cfg(all(unix, test, frameseal_loom))]
pub(crate) use unix::{before, in_parent};

#[cfg(not(unix))]
pub use elsewhere::{Inside, enter};
#[cfg(not(unix))]
pub(crate) use elsewhere::{Starting, generation, is_inside, join};

#[cfg(unix)]
#[cfg_attr(any(miri, frameseal_loom), allow(dead_code))] // nobody calls the handlers
mod unix {
    use std::cell::Cell;
    use std::marker::PhantomData;
    use std::time::Duration;

    use crate::error::KeyError;
    use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
    use crate::sync::{pause, per_thread, shared};

    shared! {
        static GENERATION: AtomicU32 = AtomicU32::new(0);
        static WATCHED: AtomicBool = AtomicBool::new(false);
        /// Counts the threads inside (low half) and the forks in progress (high half). It is one atomic, so that a
        /// thread that enters and a fork that begins cannot miss each other.
        static GATE: AtomicU64 = AtomicU64::new(0);
    }
    const FORK: u64 = 1 << 32;

    /// The interval between two polls of the gate. A fork lasts longer.
    const POLL_INTERVAL: Duration = Duration::from_micros(50);

    per_thread! {
        /// Counts the guards of this thread. The gate counts the outermost guard only.
        static DEPTH: Cell<u32> = const { Cell::new(0) };
    }

    fn depth() -> u32 {
        DEPTH.with(Cell::get)
    }

    fn set_depth(depth: u32) {
        DEPTH.with(|place| place.set(depth));
    }

    /// A guard that blocks forks of this process until it is dropped.
    #[must_use]
    pub struct Inside {
        counted: bool,
        /// Keeps the guard in its thread.
        _thread: PhantomData<*const ()>,
    }

    /// Blocks forks of this process until the guard is dropped. Waits first for a fork in progress.
    ///
    /// A program that calls this crate in one thread and `fork`s in another holds a guard during each call. Then the
    /// child can use every ring, encryptor and decryptor. A batch enters by itself, and lets forks proceed between
    /// chunks of frames. Guards nest, and a thread that forks does not wait for its own guards.
    pub fn enter() -> Inside {
        let outermost = depth() == 0;
        if outermost {
            // If the registration of the handlers fails, no key can be set: see `generation`.
            let _ = generation();
            while GATE.fetch_add(1, Ordering::SeqCst) >= FORK {
                GATE.fetch_sub(1, Ordering::SeqCst);
                while GATE.load(Ordering::SeqCst) >= FORK {
                    pause(POLL_INTERVAL);
                }
            }
        }
        set_depth(depth() + 1);
        Inside { counted: outermost, _thread: PhantomData }
    }

    /// Returns whether this thread holds a guard.
    pub(crate) fn is_inside() -> bool {
        depth() != 0
    }

    /// Enters under the guard of another thread, which waits for this thread.
    pub(crate) fn join() -> Inside {
        set_depth(depth() + 1);
        Inside { counted: false, _thread: PhantomData }
    }

    /// A guard that another thread drops. It blocks forks until then.
    pub(crate) struct Starting(());

    impl Inside {
        /// Returns a guard for a thread that starts now. It blocks forks until the new thread drops it.
        pub(crate) fn starting(&self) -> Starting {
            GATE.fetch_add(1, Ordering::SeqCst); // no fork is in progress while this thread is inside
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
            set_depth(depth().saturating_sub(1));
            if self.counted {
                GATE.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    pub(crate) extern "C" fn before() {
        let own = u64::from(is_inside());
        GATE.fetch_add(FORK, Ordering::SeqCst);
        while GATE.load(Ordering::SeqCst) % FORK > own {
            pause(POLL_INTERVAL);
        }
    }

    pub(crate) extern "C" fn in_parent() {
        // Checked, because a C library may run this handler for a fork that began before its registration.
        let _ = GATE.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |gate| gate.checked_sub(FORK));
    }

    pub(crate) extern "C" fn in_child() {
        // No other thread exists in the child, and no fork of another thread is in progress.
        GATE.store(u64::from(is_inside()), Ordering::SeqCst);
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of forks between this process and the process that loaded the library.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`] if the handlers cannot be registered.
    #[inline(always)]
    pub(crate) fn generation() -> Result<u32, KeyError> {
        if WATCHED.load(Ordering::Relaxed) || watch() {
            Ok(GENERATION.load(Ordering::Relaxed))
        } else {
            Err(KeyError::Unavailable)
        }
    }

    /// Registers the handlers. It takes no lock that a fork could copy, since a second registration is harmless.
    #[cold]
    fn watch() -> bool {
        // SAFETY: the handlers live as long as the program. They access atomics and a thread-local number without a
        // destructor. The handler that sleeps runs in the parent, before the fork.
        #[allow(unsafe_code)]
        #[cfg(not(any(miri, frameseal_loom)))]
        let watched = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) } == 0;
        // Neither has forks. A model calls the handlers itself.
        #[cfg(any(miri, frameseal_loom))]
        let watched = true;
        WATCHED.fetch_or(watched, Ordering::Relaxed) || watched
    }
}

#[cfg(not(unix))]
mod elsewhere {
    //! The same interface for platforms without `fork`.

    use std::marker::PhantomData;

    use crate::error::KeyError;

    /// A guard that blocks forks, on platforms that have them.
    #[must_use]
    pub struct Inside(PhantomData<*const ()>);

    pub(crate) struct Starting(());

    impl Inside {
        pub(crate) fn starting(&self) -> Starting {
            Starting(())
        }
    }

    /// Returns a guard that does nothing, because this platform has no `fork`.
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
