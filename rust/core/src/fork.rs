//! Tells a forked child from its parent, for the price of one relaxed load per frame.

#[cfg(unix)]
pub(crate) use unix::generation;

#[cfg(not(unix))]
pub(crate) use elsewhere::generation;

#[cfg(unix)]
mod unix {
    use crate::error::KeyError;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static GENERATION: AtomicU32 = AtomicU32::new(0);
    static REGISTERED: OnceLock<bool> = OnceLock::new();

    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }

    /// How many forks lie between this process and the one that loaded the library.
    pub(crate) fn generation() -> Result<u32, KeyError> {
        // SAFETY: the handler touches one atomic, which is async-signal-safe, and lives as long as the program.
        #[allow(unsafe_code)]
        let watched = *REGISTERED.get_or_init(|| unsafe { libc::pthread_atfork(None, None, Some(in_child)) } == 0);
        if watched { Ok(GENERATION.load(Ordering::Relaxed)) } else { Err(KeyError::Unavailable) }
    }
}

#[cfg(not(unix))]
mod elsewhere {
    //! No `fork` on this platform.

    use crate::error::KeyError;

    pub(crate) fn generation() -> Result<u32, KeyError> {
        Ok(0)
    }
}
