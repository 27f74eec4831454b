//! Opens frames, and checks the results against the frames that were sealed and opened before.

use frameseal::DecryptError;

use super::super::model::Label;
use super::{Cryptor, Receiver, Sealed, World, counts, is_sframe};

impl World<'_> {
    pub(super) fn open(&mut self, at: usize, bytes: &[u8]) -> Option<Vec<u8>> {
        let opened = match &self.receivers[at].cryptor {
            Cryptor::Frames(decryptor) => decryptor.decrypt(bytes),
            Cryptor::Packets(cryptor) => cryptor.decrypt_packet(bytes, b""),
        };
        self.opened(at, bytes, opened)
    }

    pub(super) fn open_batch(&mut self, at: usize) -> Option<Vec<u8>> {
        let all: Vec<Vec<u8>> =
            self.frames.iter().chain(self.frames.last()).map(|sealed| sealed.bytes.clone()).collect();
        let Cryptor::Frames(decryptor) = &self.receivers[at].cryptor else { return None };
        let batch = decryptor.plan_batch(all.iter().map(Vec::as_slice).collect());
        let mut out = vec![0; batch.max_len()];
        let results = batch.open_into(&mut out, 1).results();
        let mut rest = out.as_slice();
        let mut last = None;
        for (bytes, result) in all.iter().zip(results) {
            let opened = result.map(|len| {
                let (payload, behind) = rest.split_at(len);
                rest = behind;
                payload.to_vec()
            });
            last = self.opened(at, bytes, opened).or(last);
        }
        last
    }

    /// Checks that an opened payload was sealed, and opened for the first time. Follows a sender that has ratcheted.
    fn opened(&mut self, at: usize, bytes: &[u8], opened: Result<Vec<u8>, DecryptError>) -> Option<Vec<u8>> {
        let payload = match opened {
            Ok(payload) => payload,
            Err(error) => {
                self.check_refusal(at, bytes, error);
                return None;
            }
        };
        let Some(&frame) = self.payloads.get(&payload) else {
            self.fail(&format!("{payload:02x?} was opened, but no ring has sealed it"))
        };
        check!(self, self.receivers[at].opened.insert(frame), "frame {frame} opens twice at receiver {at}");
        let label = self.frames[frame].label;
        let (kid, _) = self.numbers(self.receivers[at].cryptor.form(), bytes);
        self.follow(self.current(self.receivers[at].ring), kid, label);
        Some(payload)
    }

    /// Checks that a refused frame was opened before, was altered, or has a key that the receiver does not have.
    fn check_refusal(&self, at: usize, bytes: &[u8], error: DecryptError) {
        let Receiver { ring, opened, cryptor } = &self.receivers[at];
        let Some(frame) = self.frames.iter().position(|sealed| sealed.bytes == bytes) else { return };
        let Sealed { label, form, .. } = self.frames[frame];
        let sframe = is_sframe(self.program.profile);
        // After skipped counters and evicted windows, a late frame counts as replayed.
        let is_short = counts(self.program.profile) && self.rings[*ring].kind.short_window;
        if opened.contains(&frame) || self.is_late || is_short {
            return;
        }
        let (kid, _) = self.numbers(form, bytes);
        let holds = (sframe || form == cryptor.form()) && self.rings[self.current(*ring)].opens(kid, label);
        check!(
            self,
            !holds,
            "{error:?} at receiver {at}, which has {label:?} under KID {kid} and has not opened frame {frame}"
        );
    }

    fn follow(&mut self, ring: usize, kid: u64, label: Label) {
        let bits = self.ratchet_bits(ring);
        let from = match self.rings[ring].key(kid) {
            Some(known) if known.label == label => None,
            known if !is_sframe(self.program.profile) => known,
            _ if bits > 0 => self.rings[ring].behind(kid, bits),
            _ => None,
        };
        if let Some(from) = from {
            check!(self, from.label.base == label.base, "{label:?} was opened with {from:?}");
            self.step(ring, from, kid, label.steps);
        }
    }
}
