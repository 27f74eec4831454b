//! Seals frames, and determines the key and the nonce of each.

use std::sync::Arc;

use frameseal::{Codec, DataCryptor, Decryptor, EncryptError, Encryptor, KeyRing, hazmat};

use super::super::model::{Label, Origin, Ring, Thing};
use super::super::program::{BASES, Kind};
use super::{Form, MAX_FRAMES, MAX_SENDERS, SHARED_BITS, Sealed, World, is_raw, is_sframe, options};

impl World<'_> {
    /// Returns a unique payload, with the first byte of an Opus frame.
    fn payload(&mut self) -> Vec<u8> {
        self.next += 1;
        [&[0x78], &self.next.to_be_bytes()[..]].concat()
    }

    pub(super) fn seal(&mut self, ring: usize, form: Form) {
        if self.frames.len() >= MAX_FRAMES || form == Form::Packet && is_raw(self.program.profile) {
            return;
        }
        let payload = self.payload();
        let native = Arc::clone(&self.rings[ring].native);
        let sealed = match form {
            Form::Frame => Encryptor::new(native, Codec::Opus).expect("the profile supports Opus").encrypt(&payload),
            Form::Packet => self.cryptor(native).encrypt_packet(&payload, b""),
        };
        match sealed {
            Ok(bytes) => self.sealed(ring, form, bytes, payload),
            Err(error) => self.refused(ring, error),
        }
    }

    fn cryptor(&self, ring: Arc<KeyRing>) -> DataCryptor {
        DataCryptor::new(ring, false, Some(0)).expect("a window of 0 is off")
    }

    pub(super) fn seal_parts(&mut self, ring: usize) {
        if is_raw(self.program.profile) {
            return;
        }
        let cryptor = self.cryptor(Arc::clone(&self.rings[ring].native));
        if self.frames.len() >= MAX_FRAMES || !cryptor.has_parts() {
            return;
        }
        let payload = self.payload();
        match cryptor.encrypt(&payload, b"") {
            Ok(parts) => {
                let bytes = [&[0xF5, 0x01, parts.key_index], &parts.iv[..], &parts.ciphertext].concat();
                self.sealed(ring, Form::Packet, bytes, payload);
            }
            Err(error) => self.refused(ring, error),
        }
    }

    pub(super) fn seal_batch(&mut self, ring: usize, count: usize) {
        if self.frames.len() + count > MAX_FRAMES {
            return;
        }
        let payloads: Vec<_> = (0..count).map(|_| self.payload()).collect();
        let encryptor =
            Encryptor::new(Arc::clone(&self.rings[ring].native), Codec::Opus).expect("the profile supports Opus");
        let planned = encryptor.plan_batch(payloads.iter().map(Vec::as_slice).collect(), 1);
        let sealed = planned.and_then(|batch| {
            let mut out = vec![0; batch.max_len()];
            batch.seal_into(&mut out, 1).map(|lens| (out, lens))
        });
        match sealed {
            Ok((out, lens)) => {
                let mut rest = out.as_slice();
                for (payload, len) in payloads.into_iter().zip(lens) {
                    let (bytes, behind) = rest.split_at(len);
                    rest = behind;
                    self.sealed(ring, Form::Frame, bytes.to_vec(), payload);
                }
            }
            Err((_, error)) => self.refused(ring, error),
        }
    }

    /// Seals like other participants, each with its own ring, under KIDs whose low bits are `id`.
    pub(super) fn crowd(&mut self, base: usize, id: u64, count: u64) {
        if !is_sframe(self.program.profile) {
            return;
        }
        let kind = Kind { keys: 0, falls_back: false, short_window: false };
        for sender in 1..=count {
            let native =
                KeyRing::new(self.program.profile, options(self.program, Some(kind))).expect("the options are valid");
            let ring = self.rings.len();
            self.rings.push(Ring::new(Arc::new(native), kind, None));
            self.set(ring, sender << SHARED_BITS | id & 0xFF, base, None);
            self.seal(ring, Form::Frame);
        }
        self.is_late |= self.rings.len() > MAX_SENDERS;
    }

    /// Checks that a frame was refused because there is no sending key, or the key may have been used elsewhere.
    fn refused(&self, ring: usize, error: EncryptError) {
        let current = self.current(ring);
        let thing = self.rings[current].sending();
        match (error, thing) {
            (EncryptError::UnknownKey { .. }, None) => {}
            (EncryptError::KeyExhausted { .. }, Some(thing)) => {
                let own = match thing.kid() {
                    Some(kid) if is_sframe(self.program.profile) => {
                        thing.since == self.generation && self.pairs.belongs_to((thing.label, kid), current)
                    }
                    _ => true,
                };
                let limited = thing.is_continued || self.rings[current].kind.keys == 3;
                check!(self, limited || !own, "{thing:?} belongs to this ring alone, but was refused");
            }
            (error, thing) => check!(self, false, "{error:?} although {thing:?} must seal"),
        }
    }

    /// Checks that a sealed frame has the predicted key and a fresh nonce.
    fn sealed(&mut self, ring: usize, form: Form, bytes: Vec<u8>, payload: Vec<u8>) {
        let current = self.current(ring);
        let Some(thing) = self.rings[current].sending() else { self.fail("a frame was sealed without a sending key") };
        let (kid, number) = self.numbers(form, &bytes);
        let label = self.key_of(form, &bytes, &payload, thing.label);
        check!(self, label == thing.label, "{label:?} sealed, but the newest key under its id is {thing:?}");
        let named = thing.kid().unwrap_or(kid);
        check!(self, kid == named, "KID {kid} sealed, but the newest key under its id is {thing:?}");

        let sframe = is_sframe(self.program.profile);
        check!(
            self,
            self.nonces.insert((label, if sframe { kid } else { 0 }, number)),
            "the nonce {number:02x?} of {label:?} under KID {kid} seals for the second time"
        );
        if sframe {
            // A drawn KID is as old as its first frame.
            let first = self.pairs.sealed((label, kid), current, self.generation);
            let since = if thing.kid().is_some() { thing.since } else { first };
            check!(
                self,
                since == self.generation,
                "{label:?} under KID {kid} seals after a fork, but was set before it: the parent may use the same nonce"
            );
            if thing.is_continued {
                self.pairs.continued((label, kid), self.generation);
            }
        } else {
            let mut prefix = [0; 8];
            prefix.copy_from_slice(&number[..8]);
            let since = *self.prefixes.entry((label, prefix)).or_insert(self.generation);
            check!(self, since == self.generation, "a forked child continues its parent's IVs");
            self.is_late |= is_raw(self.program.profile) && self.prefixes.len() > MAX_SENDERS;
        }
        // A key of the trailer profiles is the same under every id, and a shared key under every drawn KID.
        let counted = if sframe { thing.kid().unwrap_or(thing.id) } else { 0 };
        let sealed = self.sealed.entry((current, label, counted)).or_default();
        *sealed += 1;
        let sealed = *sealed;
        let native = &self.rings[ring].native;
        let (used, limit) = (native.frames_sealed(native.sending_key_id()), self.rings[current].native.usage_limit());
        check!(self, sealed <= limit, "{thing:?} seals {sealed} frames, and may seal {limit}");
        check!(self, used.is_ok_and(|used| used >= sealed), "{thing:?} sealed {sealed}, and its usage is {used:?}");
        if self.checked.insert((current, label, kid)) {
            self.check_answers(ring, thing);
            self.check_receiver(form, thing, &bytes, &payload);
        }
        self.payloads.insert(payload, self.frames.len());
        self.frames.push(Sealed { bytes, form, label });
    }

    /// Returns the KID, and the visible part of the nonce: the IV, or the counter.
    pub(super) fn numbers(&self, form: Form, bytes: &[u8]) -> (u64, [u8; 12]) {
        let mut number = [0; 12];
        if is_sframe(self.program.profile) {
            let (kid, ctr, _) = hazmat::parse_header(bytes).expect("a sealed frame has a header");
            number[4..].copy_from_slice(&ctr.to_be_bytes());
            return (kid, number);
        }
        if is_raw(self.program.profile) {
            let (counter, behind) = bytes[bytes.len() - 20..].split_at(4);
            number[..8].copy_from_slice(&behind[..8]);
            number[8..].copy_from_slice(counter);
            return (u64::from(behind[8]), number);
        }
        let (kid, iv) = match form {
            Form::Frame => (bytes[bytes.len() - 1], &bytes[bytes.len() - 14..bytes.len() - 2]),
            Form::Packet => (bytes[2], &bytes[3..15]),
        };
        number.copy_from_slice(iv);
        (u64::from(kid), number)
    }

    /// Returns the key that sealed: the predicted key, or else the first key of the program that matches.
    fn key_of(&mut self, form: Form, bytes: &[u8], payload: &[u8], expected: Label) -> Label {
        if self.seals_alike(form, bytes, payload, expected) {
            return expected;
        }
        for base in 0..BASES {
            for steps in 0..self.chains[base].len() {
                let label = Label { base, steps };
                if self.seals_alike(form, bytes, payload, label) {
                    return label;
                }
            }
        }
        self.fail("a frame was sealed with a key that was never set")
    }

    fn seals_alike(&mut self, form: Form, bytes: &[u8], payload: &[u8], label: Label) -> bool {
        let (kid, number) = self.numbers(form, bytes);
        let sframe = is_sframe(self.program.profile);
        let secret = self.secret(label);
        let (profile, suite) = (self.program.profile, self.suite);
        let (key, salt) = self
            .derived
            .entry((label, if sframe { kid } else { 0 }))
            .or_insert_with(|| hazmat::derive(profile, suite, kid, &secret).expect("the key can be derived"));
        let mut nonce = number;
        nonce.iter_mut().zip(salt).for_each(|(byte, salt)| *byte ^= *salt);
        let seal = |aad: &[u8], plaintext: &[u8]| {
            hazmat::seal(suite, key, nonce, aad, plaintext).expect("the AEAD can seal it")
        };
        match (sframe, form) {
            (true, _) => {
                let (_, _, head) = hazmat::parse_header(bytes).expect("a sealed frame has a header");
                bytes[head..] == seal(&bytes[..head], payload)
            }
            (false, Form::Frame) if is_raw(profile) => bytes[1..bytes.len() - 20] == seal(&payload[..1], &payload[1..]),
            (false, Form::Frame) => bytes[1..bytes.len() - 14] == seal(&payload[..1], &payload[1..]),
            (false, Form::Packet) => bytes[15..] == seal(b"", payload),
        }
    }

    /// Checks that usage, fingerprint and export describe the key that seals.
    fn check_answers(&mut self, ring: usize, thing: Thing) {
        let native = Arc::clone(&self.rings[ring].native);
        let material = self.material(thing.label).to_vec();
        let exported = native.export(None).expect("a ring with allow_export");
        check!(self, *exported == material, "another key is exported than {thing:?}, which seals");
        let other = self.receiver_with(thing);
        let (ours, theirs) = (native.fingerprint(None), other.fingerprint(Some(thing.id)));
        check!(self, ours.is_ok() && ours == theirs, "the fingerprint is not that of {thing:?}, which seals");
    }

    /// Returns a ring that holds only this key.
    fn receiver_with(&mut self, thing: Thing) -> Arc<KeyRing> {
        let keys = match thing.origin {
            Origin::Shared => 2,
            Origin::Epoch(_) => 0,
            Origin::Key if is_sframe(self.program.profile) => 0,
            Origin::Key => 2,
        };
        let kind = Kind { keys, falls_back: false, short_window: false };
        let ring =
            KeyRing::new(self.program.profile, options(self.program, Some(kind))).expect("the options are valid");
        let secret = self.secret(thing.label);
        match thing.origin {
            Origin::Epoch(kid) => ring.set_epoch(&secret, &kid, 0).map(|_| ()),
            _ => ring.set(thing.id, &secret),
        }
        .expect("the key was set in another ring before");
        Arc::new(ring)
    }

    fn check_receiver(&mut self, form: Form, thing: Thing, bytes: &[u8], payload: &[u8]) {
        let ring = self.receiver_with(thing);
        let opened = match form {
            Form::Frame => Decryptor::new(ring, Codec::Opus, None).expect("the profile supports Opus").decrypt(bytes),
            Form::Packet => self.cryptor(ring).decrypt_packet(bytes, b""),
        };
        check!(self, opened.as_deref() == Ok(payload), "a receiver with only {thing:?} opens it to {opened:?}");
    }
}
