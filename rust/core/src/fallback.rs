//! A ring that turns to another one while it has no keys of its own: a participant's, and the shared one of the room.
//!
//! Sealing and opening, and every question about keys, go to [`KeyRing::current`]. Setting, choosing and removing are the
//! ring's own. Between looking a key up and opening with it the ring may get its first key: then nothing of the other
//! ring's finds a place in this one, since keys are told apart by their serials.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::KeyError;
use crate::keyring::{KeyRing, State};

/// Rings that may stand behind a ring: a participant's, a group's and a room's are three in all.
const MAX_DEPTH: usize = 16;

impl KeyRing {
    /// This ring, turning to `shared` while it has no keys.
    ///
    /// # Errors
    /// [`KeyError::NotOfProfile`]: the other ring has another profile or suite. [`KeyError::FallbackDepth`]: too many
    /// rings stand behind it.
    pub fn with_fallback(mut self, shared: Arc<Self>) -> Result<Self, KeyError> {
        let (ours, theirs) = (&self.maker, &shared.maker);
        if ours.profile.name != theirs.profile.name || ours.suite.id != theirs.suite.id {
            return Err(KeyError::NotOfProfile {
                option: "fallback of another profile or suite",
                profile: ours.profile.name,
            });
        }
        let behind = std::iter::successors(Some(&shared), |ring| ring.fallback.as_ref());
        if behind.take(MAX_DEPTH + 1).count() > MAX_DEPTH {
            return Err(KeyError::FallbackDepth { most: MAX_DEPTH });
        }
        self.fallback = Some(shared);
        Ok(self)
    }

    /// The ring whose keys count now.
    pub(crate) fn current(&self) -> &Self {
        match &self.fallback {
            Some(shared) if !self.occupied.load(Ordering::Acquire) => shared.current(),
            _ => self,
        }
    }

    /// To be called, under the lock, after every change of the keys.
    pub(crate) fn changed(&self, state: &State) {
        self.occupied.store(!state.is_empty(), Ordering::Release);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }
}
