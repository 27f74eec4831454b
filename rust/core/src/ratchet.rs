//! One step forward, and the bounded search for a sender that has stepped ahead. Nothing else ratchets.
//!
//! `material[n+1] = KDF(material[n], 32 bytes)`, `key[n] = KDF(material[n])`. Where both have the same salt, the first
//! bytes of a step's material are the key before it (livekit-client 2.23.0 and webrtc-sdk m144 do so). It is no boundary
//! between members; for that, set a fresh key.

use crate::error::KeyError;
use crate::profile::KeySchedule;
use crate::secret::Secret;
use zeroize::Zeroizing;

/// Steps that a search may look ahead, at the most.
pub(crate) const MOST_AHEAD: u16 = 16;

const MATERIAL_LEN: usize = 32;

/// The material one step on.
pub(crate) fn step(schedule: &KeySchedule, material: &Secret) -> Result<Secret, KeyError> {
    let mut next = Zeroizing::new([0; MATERIAL_LEN]);
    schedule.step(material, next.as_mut())?;
    Ok(Secret::new(next.as_ref(), material.kdf()))
}
