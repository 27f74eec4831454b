//! Locks, atomics and statics that threads share: those of the standard library.
//!
//! A build of the models of `make loom` has those of loom instead, which runs a model in every order of its threads.

#[cfg(not(frameseal_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic};
#[cfg(not(frameseal_loom))]
pub(crate) use std::thread_local as per_thread;

#[cfg(frameseal_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic};

/// Declares a static. Loom creates it anew for each order.
macro_rules! shared {
    ($($(#[$doc:meta])* static $name:ident: $type:ty = $value:expr;)+) => {
        $(
            #[cfg(not(frameseal_loom))]
            $(#[$doc])*
            static $name: $type = $value;
        )+
        #[cfg(frameseal_loom)]
        loom::lazy_static! { $($(#[$doc])* static ref $name: $type = $value;)+ }
    };
}
pub(crate) use shared;

/// Declares a value that each thread has for itself.
#[cfg(frameseal_loom)]
macro_rules! per_thread {
    ($(#[$doc:meta])* static $name:ident: $type:ty = const { $value:expr };) => {
        loom::thread_local! { $(#[$doc])* static $name: $type = $value; }
    };
}
#[cfg(frameseal_loom)]
pub(crate) use per_thread;

/// Sleeps before a condition is polled again.
#[cfg(not(frameseal_loom))]
pub(crate) fn pause(interval: std::time::Duration) {
    std::thread::sleep(interval);
}

/// Lets another thread run before a condition is polled again.
#[cfg(frameseal_loom)]
pub(crate) fn pause(_interval: std::time::Duration) {
    loom::thread::yield_now();
}
