//! The native rival of the profile `sframe`: sframe-rs (RFC 9605, over ring), with reused buffers.

use std::hint::black_box;
use std::time::Instant;

use sframe::CipherSuite;
use sframe::error::Result;
use sframe::frame::{EncryptedFrameView, MediaFrameView, MonotonicCounter};
use sframe::key::{DecryptionKey, EncryptionKey};

// The base key and key id of the race, so that frameseal and sframe-rs open each other's frames.
const KID: u64 = 1;
// Three counter bytes in the header, as after some minutes of a call.
const FIRST_COUNTER: u64 = 1 << 20;

fn base_key() -> [u8; 32] {
    std::array::from_fn(|n| n as u8)
}

fn sealing() -> Result<(EncryptionKey, MonotonicCounter)> {
    let key = EncryptionKey::derive_from(CipherSuite::AesGcm128Sha256, KID, base_key())?;
    Ok((key, MonotonicCounter::with_start_value(FIRST_COUNTER, u64::MAX)))
}

fn opening() -> Result<DecryptionKey> {
    DecryptionKey::derive_from(CipherSuite::AesGcm128Sha256, KID, base_key())
}

/// Seals one frame. Fails if sframe-rs refuses it.
pub fn encrypt(frame: &[u8]) -> Result<Vec<u8>> {
    let (key, mut counter) = sealing()?;
    let mut out = Vec::new();
    MediaFrameView::try_new(&mut counter, frame)?.encrypt_into(&key, &mut out)?;
    Ok(out)
}

/// Opens one frame. Fails if sframe-rs refuses it.
pub fn decrypt(sealed: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let frame = EncryptedFrameView::try_new(sealed)?;
    let payload = frame.decrypt_into(&opening()?, &mut out)?.payload().to_vec();
    Ok(payload)
}

/// Returns ns per frame of sealing `frames` frames of `size` bytes.
pub fn encrypt_ns(size: usize, frames: usize) -> Result<f64> {
    let (key, mut counter) = sealing()?;
    let (frame, mut out) = (vec![7_u8; size], Vec::with_capacity(size + 64));
    let start = Instant::now();
    for _ in 0..frames {
        let frame = MediaFrameView::try_new(&mut counter, black_box(&frame))?;
        black_box(frame.encrypt_into(&key, &mut out)?);
    }
    Ok(start.elapsed().as_nanos() as f64 / frames.max(1) as f64)
}

/// Returns ns per frame of opening one sealed frame of `size` bytes `frames` times, without a replay window.
pub fn decrypt_ns(size: usize, frames: usize) -> Result<f64> {
    let (key, sealed) = (opening()?, encrypt(&vec![7_u8; size])?);
    let mut out = Vec::with_capacity(sealed.len() + 64);
    let start = Instant::now();
    for _ in 0..frames {
        let frame = EncryptedFrameView::try_new(black_box(&sealed))?;
        black_box(frame.decrypt_into(&key, &mut out)?);
    }
    Ok(start.elapsed().as_nanos() as f64 / frames.max(1) as f64)
}
