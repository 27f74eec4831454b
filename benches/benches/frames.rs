//! Measures one frame through the core beside the bare AEAD of the same library: the difference is the cost of key
//! ring, codec and trailer. Measures one SFrame beside sframe-rs.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use frameseal::{Codec, Decryptor, Encryptor, KeyRing, Options, Secret, profile};
use sframe::CipherSuite;
use sframe::frame::{EncryptedFrameView, MediaFrameView, MonotonicCounter};
use sframe::key::{DecryptionKey, EncryptionKey};

const SIZES: [usize; 5] = [120, 1_200, 6_000, 20_000, 100_000];
const BASE_KEY: [u8; 32] = [7; 32];
const KID: u64 = 1;

fn ring() -> Arc<KeyRing> {
    let ring = KeyRing::new(&profile::LIVEKIT, Options::default()).unwrap();
    ring.set(0, &Secret::key(&[7; 32]).unwrap()).unwrap();
    Arc::new(ring)
}

fn frame(codec: Codec, size: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..size).map(|n| (n * 31 % 251) as u8 | 4).collect();
    if codec == Codec::H264 {
        frame.splice(..6, *b"\0\0\0\x01\x41\x9a");
    }
    frame
}

/// Measures AWS-LC: the AEAD alone, into an existing buffer.
fn bare(c: &mut Criterion) {
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).unwrap());
    let mut group = c.benchmark_group("bare AEAD");
    for size in SIZES {
        let frame = frame(Codec::Opus, size);
        let mut out = vec![0; size];
        let mut tag = [0; 16];
        let mut counter = 0u64;
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("seal", size), |b| {
            b.iter(|| {
                counter += 1;
                let mut iv = [0; 12];
                iv[4..].copy_from_slice(&counter.to_be_bytes());
                let nonce = Nonce::assume_unique_for_key(iv);
                key.seal_out_of_place_scatter(
                    nonce,
                    Aad::from(&frame[..1]),
                    black_box(&frame),
                    &mut out,
                    &[],
                    &mut tag,
                )
                .unwrap();
            });
        });
    }
    group.finish();
}

fn frames(c: &mut Criterion) {
    for (name, codec, sizes) in [("opus", Codec::Opus, &SIZES[..]), ("h264", Codec::H264, &SIZES[2..4])] {
        let mut group = c.benchmark_group(name);
        for &size in sizes {
            let encryptor = Encryptor::new(ring(), codec).unwrap();
            let decryptor = Decryptor::new(ring(), codec, None).unwrap();
            let frame = frame(codec, size);
            let sealed = encryptor.encrypt(&frame).unwrap();
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new("encrypt", size), |b| {
                b.iter(|| encryptor.encrypt(black_box(&frame)).unwrap());
            });
            group.bench_function(BenchmarkId::new("decrypt", size), |b| {
                b.iter(|| decryptor.decrypt(black_box(&sealed)).unwrap());
            });
        }
        group.finish();
    }
}

/// Measures SFrames, AES_128_GCM_SHA256_128. Both allocate a new frame; sframe-rs also runs with a reused buffer.
fn sframes(c: &mut Criterion) {
    let ring = KeyRing::new(&profile::SFRAME, Options::default()).unwrap();
    ring.set(KID, &Secret::key(&BASE_KEY).unwrap()).unwrap();
    let ring = Arc::new(ring);
    let encryptor = Encryptor::new(ring.clone(), Codec::Opus).unwrap();
    // Turn the replay window off, as in sframe-rs by default: one frame is opened again and again.
    let decryptor = Decryptor::new(ring, Codec::Opus, Some(0)).unwrap();
    let sealing = EncryptionKey::derive_from(CipherSuite::AesGcm128Sha256, KID, BASE_KEY).unwrap();
    let opening = DecryptionKey::derive_from(CipherSuite::AesGcm128Sha256, KID, BASE_KEY).unwrap();
    let mut counter = MonotonicCounter::new(u64::MAX);
    let mut group = c.benchmark_group("sframe");
    for size in &SIZES[..4] {
        let frame = frame(Codec::Opus, *size);
        let (ours, mut out) = (encryptor.encrypt(&frame).unwrap(), Vec::new());
        let theirs = MediaFrameView::try_new(&mut counter, &frame).unwrap().encrypt(&sealing).unwrap();
        let theirs = theirs.as_ref().to_vec();
        assert_eq!(decryptor.decrypt(&theirs).unwrap(), frame);
        let opened = EncryptedFrameView::try_new(&ours).unwrap().decrypt(&opening).unwrap();
        assert_eq!(opened.payload(), frame);

        group.throughput(Throughput::Bytes(*size as u64));
        group.bench_function(BenchmarkId::new("encrypt", size), |b| {
            b.iter(|| encryptor.encrypt(black_box(&frame)).unwrap());
        });
        group.bench_function(BenchmarkId::new("encrypt, sframe-rs", size), |b| {
            b.iter(|| {
                let view = MediaFrameView::try_new(&mut counter, black_box(&frame)).unwrap();
                view.encrypt(&sealing).unwrap()
            });
        });
        group.bench_function(BenchmarkId::new("encrypt, sframe-rs, buffer kept", size), |b| {
            b.iter(|| {
                let view = MediaFrameView::try_new(&mut counter, black_box(&frame)).unwrap();
                black_box(view.encrypt_into(&sealing, &mut out).unwrap());
            });
        });
        group.bench_function(BenchmarkId::new("decrypt", size), |b| {
            b.iter(|| decryptor.decrypt(black_box(&ours)).unwrap());
        });
        group.bench_function(BenchmarkId::new("decrypt, sframe-rs", size), |b| {
            b.iter(|| EncryptedFrameView::try_new(black_box(&theirs)).unwrap().decrypt(&opening).unwrap());
        });
        group.bench_function(BenchmarkId::new("decrypt, sframe-rs, buffer kept", size), |b| {
            b.iter(|| {
                let view = EncryptedFrameView::try_new(black_box(&theirs)).unwrap();
                black_box(view.decrypt_into(&opening, &mut out).unwrap());
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = bare, frames, sframes
}
criterion_main!(benches);
