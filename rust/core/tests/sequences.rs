//! Tests random sequences of calls with keys. No pair of key and nonce repeats, and no frame opens twice. The newest
//! key seals, and no key exceeds its usage limit.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use frameseal::profile::{LIVEKIT, NEXTCLOUD, SFRAME, STREAM};
use frameseal::{
    Codec, DataCryptor, Decryptor, EncryptError, Encryptor, KeyError, KeyRing, MlsKid, Options, Profile, Secret,
};
use proptest::prelude::*;

const RINGS: usize = 3;
const SECRETS: usize = 2;
const MAX_STEPS: usize = 6;
const LIMIT: u64 = 12;

/// A secret and the ratchet steps from it.
type Material = (usize, usize);

/// An entry under an id: the field of its KIDs (`None` if the id is the KID), the KID that seals, and the material.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Held {
    id: u64,
    field_bits: Option<u8>,
    kid: u64,
    material: Material,
    old: bool,
}

/// The expected entries of a ring, in the order in which they were set, as documented.
#[derive(Default)]
struct Model {
    held: Vec<Held>,
    sending: Option<u64>,
}

impl Model {
    fn put(&mut self, held: Held) {
        self.held.retain(|known| (known.id, known.field_bits) != (held.id, held.field_bits));
        self.held.push(held);
        self.sending.get_or_insert(held.id);
    }

    fn sealing(&self) -> Option<Held> {
        self.held.iter().rev().find(|held| Some(held.id) == self.sending).copied()
    }
}

#[derive(Clone, Debug)]
enum Do {
    Set {
        secret: usize,
        id: u64,
        counter: Option<u64>,
    },
    Epoch {
        secret: usize,
        epoch: u64,
        epoch_bits: u8,
        sender_index: u64,
        retain: usize,
    },
    Remove(u64),
    Send(u64),
    Ratchet(u64),
    Seal(usize),
    SealBatch(usize),
    SealPacket,
    /// A forwarder sends every frame to the receivers of this ring again.
    Replay,
}

/// Returns whether the profile has a form of data packets.
fn has_packets(profile: &Profile) -> bool {
    profile.layout() != "footer"
}

/// One ring with the encryptors and decryptors of a participant.
struct Side {
    ring: Arc<KeyRing>,
    encryptor: Encryptor,
    decryptor: Decryptor,
    /// `None` if the profile has no data packets.
    data: Option<DataCryptor>,
    model: Model,
    opened: HashSet<Vec<u8>>,
}

impl Side {
    fn new(profile: &'static Profile, options: Options) -> Self {
        let ring = Arc::new(KeyRing::new(profile, options).unwrap());
        Self {
            encryptor: Encryptor::new(Arc::clone(&ring), Codec::Unknown).unwrap(),
            decryptor: Decryptor::new(Arc::clone(&ring), Codec::Unknown, Some(4096)).unwrap(),
            data: has_packets(profile).then(|| DataCryptor::new(Arc::clone(&ring), false, None).unwrap()),
            ring,
            model: Model::default(),
            opened: HashSet::new(),
        }
    }

    fn ratchet(&mut self, id: u64, ratchet_bits: u8) {
        let Some(at) = self.model.held.iter().position(|held| held.id == id) else {
            assert_eq!(self.ring.ratchet(id), Err(KeyError::NoSuchKey { key_id: id }));
            return;
        };
        let held = self.model.held[at];
        if held.material.1 == MAX_STEPS {
            return;
        }
        let mask = (1 << ratchet_bits) - 1;
        let next = id & !mask | (id + 1) & mask;
        assert_eq!(self.ring.ratchet(id), Ok(next));
        if next != id {
            // The key before the step stays for late frames, even if an earlier call has taken the same step.
            self.model.held.retain(|known| known.id & !mask != id & !mask || !known.old || known.id == id);
            self.model.held.iter_mut().filter(|known| known.id == id).for_each(|known| known.old = true);
        }
        if self.model.sending == Some(id) {
            self.model.sending = Some(next);
        }
        let material = (held.material.0, held.material.1 + 1);
        self.model.put(Held { id: next, kid: next, material, old: false, ..held });
    }

    /// Seals now, and returns each frame.
    fn seal(&self, how: &Do) -> Result<Vec<Vec<u8>>, EncryptError> {
        match how {
            Do::Seal(count) => (0..*count).map(|_| self.encryptor.encrypt(b"frame")).collect(),
            Do::SealBatch(count) => {
                let frames = vec![b"frame".as_slice(); *count];
                let batch = self.encryptor.plan_batch(frames, 1).map_err(|(_, error)| error)?;
                let mut out = vec![0; batch.max_len()];
                let lens = batch.seal_into(&mut out, 1).map_err(|(_, error)| error)?;
                let mut from = 0;
                Ok(lens.iter().map(|len| (out[from..from + len].to_vec(), from += len).0).collect())
            }
            _ => self.data.as_ref().unwrap().encrypt_packet(b"packet", b"").map(|packet| vec![packet]),
        }
    }

    /// Passes every sealed frame to the receivers. A frame that opens must not have opened before.
    fn receive(&mut self, sealed: &[(bool, Vec<u8>)]) {
        for (is_packet, bytes) in sealed {
            let opened = if *is_packet {
                self.data.as_ref().unwrap().decrypt_packet(bytes, b"").is_ok()
            } else {
                self.decryptor.decrypt(bytes).is_ok()
            };
            assert!(!opened || self.opened.insert(bytes.clone()), "it opened a second time: {bytes:02x?}");
        }
    }
}

/// Returns the material with which a frame was sealed.
struct Witness {
    profile: &'static Profile,
    secrets: Vec<Vec<Secret>>,
    cryptors: HashMap<(Material, u64), (Decryptor, Option<DataCryptor>)>,
    seen: HashSet<(Material, u64, Vec<u8>)>,
}

impl Witness {
    fn new(profile: &'static Profile) -> Self {
        static CASES: AtomicU64 = AtomicU64::new(0);
        let case = CASES.fetch_add(1, Ordering::Relaxed);
        let ratchet_bits = if profile.name == "sframe" { 8 } else { 0 };
        let steps = |number: usize| {
            let ring =
                KeyRing::new(profile, Options { ratchet_bits, allow_export: true, ..Options::default() }).unwrap();
            let bytes = [b"the sequences.rs".as_slice(), &case.to_be_bytes(), &number.to_be_bytes()].concat();
            let mut steps = vec![Secret::key(&bytes).unwrap()];
            ring.set(0, &steps[0]).unwrap();
            let mut id = 0;
            for _ in 0..if profile.layout() == "footer" { 0 } else { MAX_STEPS } {
                id = ring.ratchet(id).unwrap();
                steps.push(Secret::key(&ring.export(Some(id)).unwrap()).unwrap());
            }
            steps
        };
        Self { profile, secrets: (0..SECRETS).map(steps).collect(), cryptors: HashMap::new(), seen: HashSet::new() }
    }

    /// Records material, KID and nonce of a frame or packet. No pair of key and nonce may repeat.
    fn judge(&mut self, is_packet: bool, sealed: &[u8]) -> (Material, u64) {
        let (kid, nonce) = match (self.profile.name, is_packet) {
            ("sframe", _) => sframe_header(sealed),
            (_, true) => (u64::from(sealed[2]), sealed[3..15].to_vec()),
            ("stream", false) => {
                let footer = &sealed[sealed.len() - 20..];
                (u64::from(footer[12]), [&footer[4..12], &footer[..4]].concat())
            }
            (_, false) => (u64::from(sealed[sealed.len() - 1]), sealed[sealed.len() - 14..sealed.len() - 2].to_vec()),
        };
        for secret in 0..SECRETS {
            for step in 0..self.secrets[secret].len() {
                let material = (secret, step);
                let (decryptor, data) = self.cryptors.entry((material, kid)).or_insert_with(|| {
                    let ring = Arc::new(KeyRing::new(self.profile, Options::default()).unwrap());
                    ring.set(kid, &self.secrets[secret][step]).unwrap();
                    let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Unknown, Some(0)).unwrap();
                    (decryptor, has_packets(self.profile).then(|| DataCryptor::new(ring, false, Some(0)).unwrap()))
                });
                let opened = match data {
                    Some(data) if is_packet => data.decrypt_packet(sealed, b""),
                    _ => decryptor.decrypt(sealed),
                }
                .is_ok();
                if opened {
                    // But in SFrame a secret results in the same key under every id.
                    let counted = if self.profile.name == "sframe" { kid } else { 0 };
                    assert!(self.seen.insert((material, counted, nonce)), "a nonce came twice under one key");
                    return (material, kid);
                }
            }
        }
        panic!("nobody has sealed it");
    }
}

fn sframe_header(sealed: &[u8]) -> (u64, Vec<u8>) {
    let value = |bits: u8, from: usize| match bits {
        0..8 => (u64::from(bits), from),
        _ => {
            let to = from + usize::from(bits & 7) + 1;
            (sealed[from..to].iter().fold(0, |value, byte| value << 8 | u64::from(*byte)), to)
        }
    };
    let (kid, behind) = value(sealed[0] >> 4, 1);
    (kid, value(sealed[0] & 0x0F, behind).0.to_be_bytes().to_vec())
}

fn run(profile: &'static Profile, options: Options, steps: Vec<(usize, Do)>) {
    let mut witness = Witness::new(profile);
    let mut sides: Vec<Side> = (0..RINGS).map(|_| Side::new(profile, options)).collect();
    let mut sealed: Vec<(bool, Vec<u8>)> = Vec::new();
    let mut issued: BTreeMap<(usize, Material, u64), u64> = BTreeMap::new();
    let is_sframe = profile.name == "sframe";
    for (number, step) in steps {
        let side = &mut sides[number];
        match &step {
            Do::Set { secret, id, counter } => {
                let material = (*secret, 0);
                let least = witness.seen.iter().filter(|(m, kid, _)| is_sframe && (*m, *kid) == (material, *id));
                let least = least.map(|(_, _, ctr)| u64::from_be_bytes(ctr.clone().try_into().unwrap()) + 1).max();
                match side.ring.set_from(*id, &witness.secrets[*secret][0], *counter) {
                    Ok(()) => assert!(counter.is_none_or(|given| least.is_none_or(|least| given >= least))),
                    // A failed batch has used counters that no frame shows.
                    Err(KeyError::CounterUsed { given, min: Some(said) }) => {
                        assert!(Some(given) == *counter && given < said && least.is_none_or(|least| said >= least));
                        continue;
                    }
                    Err(error) => panic!("{error:?}"),
                }
                side.model.put(Held { id: *id, field_bits: None, kid: *id, material, old: false });
            }
            Do::Epoch { secret, epoch, epoch_bits, sender_index, retain } => {
                let kid = MlsKid {
                    epoch: *epoch,
                    epoch_bits: *epoch_bits,
                    sender_index: *sender_index,
                    sender_bits: 1,
                    context: 0,
                };
                let own = side.ring.set_epoch(&witness.secrets[*secret][0], &kid, *retain).unwrap();
                let id = epoch & ((1 << epoch_bits) - 1);
                let model = &mut side.model;
                model.put(Held { id, field_bits: Some(*epoch_bits), kid: own, material: (*secret, 0), old: false });
                model.sending = Some(id);
                let epochs = model.held.iter().filter(|held| held.field_bits.is_some()).count();
                let mut older = epochs.saturating_sub(retain + 1);
                model.held.retain(|held| {
                    let keep = held.field_bits.is_none() || older == 0;
                    older -= usize::from(!keep);
                    keep
                });
            }
            Do::Remove(id) => {
                side.ring.remove(*id);
                side.model.held.retain(|held| held.id != *id);
            }
            Do::Send(id) => {
                side.ring.set_sending_key_id(*id).unwrap();
                side.model.sending = Some(*id);
            }
            Do::Ratchet(id) => side.ratchet(*id, options.ratchet_bits),
            Do::Replay => side.receive(&sealed),
            Do::Seal(_) | Do::SealBatch(_) | Do::SealPacket => {
                let is_packet = matches!(step, Do::SealPacket);
                let expected = side.model.sealing();
                match side.seal(&step) {
                    Ok(frames) => {
                        for frame in frames {
                            let (material, kid) = witness.judge(is_packet, &frame);
                            let newest = expected.unwrap();
                            assert_eq!((newest.material, newest.kid), (material, kid), "the newest seals");
                            let counted = if is_sframe { kid } else { 0 };
                            let count = issued.entry((number, material, counted)).or_default();
                            *count += 1;
                            assert!(*count <= LIMIT, "a key seals beyond its limit");
                            sealed.push((is_packet, frame));
                        }
                    }
                    Err(EncryptError::UnknownKey { .. }) => assert_eq!(expected, None),
                    Err(error) => assert!(
                        matches!(error, EncryptError::KeyExhausted { .. }) && expected.is_some(),
                        "{error:?} {expected:?}"
                    ),
                }
            }
        }
        assert_eq!(sides[number].ring.can_encrypt(), sides[number].model.sealing().is_some());
    }
    for side in &mut sides {
        side.receive(&sealed);
        side.receive(&sealed);
    }
}

fn frames() -> impl Strategy<Value = Do> {
    prop_oneof![3 => (1..4usize).prop_map(Do::Seal), 1 => (1..5usize).prop_map(Do::SealBatch)]
}

fn seals() -> impl Strategy<Value = Do> {
    prop_oneof![4 => frames(), 1 => Just(Do::SealPacket)]
}

fn set(counter: bool) -> impl Strategy<Value = Do> {
    let counters = prop_oneof![2 => Just(None), 1 => (0..20u64).prop_map(move |ctr| counter.then_some(ctr))];
    (0..SECRETS, 0..4u64, counters).prop_map(|(secret, id, counter)| Do::Set { secret, id, counter })
}

fn epoch() -> impl Strategy<Value = Do> {
    (0..SECRETS, 0..8u64, 1..4u8, 0..2u64, 0..3usize).prop_map(|(secret, epoch, epoch_bits, sender_index, retain)| {
        Do::Epoch { secret, epoch, epoch_bits, sender_index, retain }
    })
}

fn others() -> impl Strategy<Value = Do> {
    prop_oneof![(0..4u64).prop_map(Do::Remove), (0..4u64).prop_map(Do::Send), Just(Do::Replay)]
}

fn sequence(step: impl Strategy<Value = Do>) -> impl Strategy<Value = Vec<(usize, Do)>> {
    proptest::collection::vec((0..RINGS, step), 1..60)
}

fn limited() -> Options {
    Options { usage_limit: LIMIT, ..Options::default() }
}

proptest! {
    #[test]
    fn base_keys_and_epochs_in_any_order(
        steps in sequence(prop_oneof![4 => seals(), 3 => set(true), 2 => epoch(), 2 => others()]),
    ) {
        run(&SFRAME, limited(), steps);
    }

    #[test]
    fn sender_keys_with_a_ratchet_in_any_order(
        steps in sequence(
            prop_oneof![4 => seals(), 2 => set(true), 2 => (0..4u64).prop_map(Do::Ratchet), 2 => others()],
        ),
    ) {
        run(&SFRAME, Options { ratchet_bits: 2, ..limited() }, steps);
    }

    #[test]
    fn keys_whose_ivs_are_transmitted_in_any_order(
        steps in sequence(
            prop_oneof![4 => seals(), 2 => set(false), 1 => (0..4u64).prop_map(Do::Ratchet), 2 => others()],
        ),
        is_nextcloud: bool,
    ) {
        run(if is_nextcloud { &NEXTCLOUD } else { &LIVEKIT }, limited(), steps);
    }

    #[test]
    fn keys_whose_ivs_count_in_any_order(
        steps in sequence(prop_oneof![4 => frames(), 2 => set(false), 2 => others()]),
    ) {
        run(&STREAM, limited(), steps);
    }
}
