//! Frames and batches for Miri, and the faults that it must find: see `rust/models/miri.py`.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::{Decryptor, Encryptor};
use crate::codec::Codec;
use crate::keyring::{KeyRing, Options};
use crate::profile::{LIVEKIT, NEXTCLOUD, Profile, SFRAME};
use crate::secret::{Kdf, Secret};

fn track(profile: &'static Profile, codec: Codec, number: u8) -> (Encryptor, Decryptor) {
    let [sender, receiver] = [(); 2].map(|()| {
        let ring = Arc::new(KeyRing::new(profile, Options::default()).unwrap());
        ring.set(0, &Secret::new(&[number; 16], Kdf::Random)).unwrap();
        ring
    });
    (Encryptor::new(sender, codec).unwrap(), Decryptor::new(receiver, codec, None).unwrap())
}

#[test]
fn frames_of_every_layout_are_sealed_and_opened_in_place() {
    let picture = [&[0, 0, 0, 1, 0x65, 0x88, 0x84][..], &[0; 40]].concat();
    let tracks = [(&LIVEKIT, Codec::Opus), (&LIVEKIT, Codec::H264), (&NEXTCLOUD, Codec::Vp8), (&SFRAME, Codec::H264)];
    for (number, (profile, codec)) in (1..).zip(tracks) {
        let (encryptor, decryptor) = track(profile, codec, number);
        let sealed = encryptor.encrypt(&picture).unwrap();
        assert_eq!(decryptor.decrypt(&sealed).unwrap(), picture);
        assert!((1..sealed.len()).step_by(9).all(|len| decryptor.decrypt(&sealed[..len]).is_err()));
    }
}

#[test]
fn the_threads_of_a_batch_share_no_memory_without_a_lock() {
    let (encryptor, decryptor) = track(&SFRAME, Codec::Opus, 200);
    let frames: Vec<Vec<u8>> = (0..130_u8).map(|number| vec![number; 3]).collect();
    let sealed: Vec<Vec<u8>> = frames.iter().map(|frame| encryptor.encrypt(frame).unwrap()).collect();
    let batch = decryptor.plan_batch(sealed.iter().map(Vec::as_slice).collect());
    let mut out = vec![7; batch.max_len()];
    assert!(batch.open_into(&mut out, 2).failed().is_empty());
    assert_eq!(out[..390], frames.concat());
}

// Controls: faults that Miri must find.

#[test]
#[ignore = "a planted fault: `make miri` runs it and expects the failure"]
#[allow(unsafe_code)]
fn control_a_read_out_of_bounds() {
    let bytes = vec![1_u8; 4];
    // SAFETY: there is none. Miri must stop here.
    assert_ne!(unsafe { *bytes.as_ptr().add(std::hint::black_box(4)) }, 1);
}

#[test]
#[ignore = "a planted fault: `make miri` runs it and expects the failure"]
#[allow(unsafe_code, invalid_value, clippy::uninit_vec)]
fn control_a_read_of_uninitialised_memory() {
    let mut bytes = Vec::<u8>::with_capacity(4);
    // SAFETY: there is none. Miri must stop at the comparison.
    unsafe { bytes.set_len(4) };
    assert!(bytes[1] == 0 || bytes[1] != 0);
}

#[test]
#[ignore = "a planted fault: `make miri` runs it and expects the failure"]
#[allow(unsafe_code)]
fn control_two_mutable_references_to_one_buffer() {
    let mut bytes = [1_u8; 4];
    let place: *mut [u8; 4] = &raw mut bytes;
    // SAFETY: there is none. Miri must stop at the second write.
    let (first, second) = unsafe { (&mut *place, &mut *place) };
    second[0] = 2;
    first[0] = 3;
    assert_eq!(second[0], 3);
}
