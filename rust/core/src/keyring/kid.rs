//! The fields of a KID, and key ids under MLS (RFC 9605, section 5.2).

use crate::error::KeyError;

/// The maximum number of epochs that a ring retains beside the newest. Each epoch holds the keys of its senders.
pub(super) const MAX_RETAINED: usize = 255;

/// A field of the low bits of a KID, and the value that the field must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) bits: u8,
    pub(super) value: u64,
}

impl Field {
    pub(super) fn mask(bits: u8) -> u64 {
        (1 << bits) - 1
    }

    pub(super) fn holds(self, kid: u64) -> bool {
        kid & Self::mask(self.bits) == self.value
    }
}

/// The fields of a KID under MLS (RFC 9605, section 5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MlsKid {
    /// The number of the epoch. The KID holds its low bits.
    pub epoch: u64,
    /// The number of bits for the epoch (E).
    pub epoch_bits: u8,
    /// The index of this member in the group.
    pub sender_index: u64,
    /// The number of bits for the index (S): the smallest number with group size <= 2^S.
    pub sender_bits: u8,
    /// Distinguishes uncoordinated streams of one sender. 0 results in the shortest KID.
    pub context: u64,
}

impl MlsKid {
    /// Returns the KID: `(context << (S + E)) + (sender_index << E) + (epoch mod 2^E)`.
    ///
    /// # Errors
    /// [`KeyError::KeyIdField`] if a field has too many bits, or its value does not fit.
    pub fn value(&self) -> Result<u64, KeyError> {
        let (e, s) = (u32::from(self.epoch_bits), u32::from(self.sender_bits));
        let check = |field, given, max| {
            if given <= max { Ok(()) } else { Err(KeyError::KeyIdField { field, given, max }) }
        };
        check("epoch_bits + sender_bits", u64::from(e + s), 63)?;
        check("sender_index", self.sender_index, Field::mask(self.sender_bits))?;
        check("context", self.context, u64::MAX >> (e + s))?;
        Ok(self.context << (e + s) | self.sender_index << e | self.epoch & Field::mask(self.epoch_bits))
    }
}
