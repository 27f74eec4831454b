//! The floor: an extension module that calls AWS-LC as an extension in C would, and does nothing else.
//!
//! It has one global key, a counter as nonce, one clear byte, and the bytes of the trailer layout. It has no key ring
//! and no codec, and checks memory bounds only. It is the lower bound of a call from Python. `aws_lc` and `aws_lc_walk`
//! do the same without Python, and `ipsec_mb` and `ipsec_mb_walk` do so with the functions of another library.
//! `sframe_rs` is here too: a rival without a Python module of its own.

mod ipsec_mb;
mod sframe_rs;

use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use aws_lc_sys::{
    EVP_AEAD_CTX, EVP_AEAD_CTX_new, EVP_AEAD_CTX_open_gather, EVP_AEAD_CTX_seal_scatter, EVP_aead_aes_128_gcm,
};
use pyo3::ffi;

const CLEAR: usize = 1;
const TAG: usize = 16;
const OVERHEAD: usize = TAG + 14;
const KEY_BYTES: [u8; 16] = *b"sixteen letters.";

struct Key(*mut EVP_AEAD_CTX);
// Sealing and opening do not change the context.
unsafe impl Send for Key {}
unsafe impl Sync for Key {}

static KEY: OnceLock<Key> = OnceLock::new();
static COUNTER: AtomicU64 = AtomicU64::new(1);

fn key() -> *mut EVP_AEAD_CTX {
    KEY.get_or_init(|| {
        Key(unsafe { EVP_AEAD_CTX_new(EVP_aead_aes_128_gcm(), KEY_BYTES.as_ptr(), KEY_BYTES.len(), TAG) })
    })
    .0
}

/// Seals `len` bytes at `frame` into `out`, whose capacity is `len` + OVERHEAD.
unsafe fn seal(frame: *const u8, len: usize, out: *mut u8) -> c_int {
    let mut iv = [0x5a; 12];
    iv[4..].copy_from_slice(&COUNTER.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    let mut tag_len = 0;
    unsafe {
        ptr::copy_nonoverlapping(frame, out, CLEAR);
        let tag = out.add(len);
        let done = EVP_AEAD_CTX_seal_scatter(
            key(),
            out.add(CLEAR),
            tag,
            &mut tag_len,
            TAG,
            iv.as_ptr(),
            iv.len(),
            frame.add(CLEAR),
            len - CLEAR,
            ptr::null(),
            0,
            out,
            CLEAR,
        );
        ptr::copy_nonoverlapping(iv.as_ptr(), tag.add(TAG), 12);
        *tag.add(TAG + 12) = 12;
        *tag.add(TAG + 13) = 0;
        done
    }
}

/// Opens `len` bytes at `sealed` into `out`, whose capacity is `len` - OVERHEAD.
unsafe fn open(sealed: *const u8, len: usize, out: *mut u8) -> c_int {
    let inside = len - OVERHEAD - CLEAR;
    unsafe {
        ptr::copy_nonoverlapping(sealed, out, CLEAR);
        let tag = sealed.add(CLEAR + inside);
        EVP_AEAD_CTX_open_gather(
            key(),
            out.add(CLEAR),
            tag.add(TAG),
            12,
            sealed.add(CLEAR),
            inside,
            tag,
            TAG,
            out,
            CLEAR,
        )
    }
}

/// Returns new bytes with the frame transformed. Raises ValueError for fewer than `min_len` bytes.
unsafe fn transformed(
    frame: *mut ffi::PyObject,
    min_len: usize,
    resized: fn(usize) -> usize,
    transform: unsafe fn(*const u8, usize, *mut u8) -> c_int,
) -> *mut ffi::PyObject {
    unsafe {
        let (mut data, mut len) = (ptr::null_mut(), 0);
        if ffi::PyBytes_AsStringAndSize(frame, &mut data, &mut len) != 0 {
            return ptr::null_mut();
        }
        let len = len as usize;
        if len < min_len {
            ffi::PyErr_SetString(ffi::PyExc_ValueError, c"the frame is too short".as_ptr());
            return ptr::null_mut();
        }
        let out = ffi::PyBytes_FromStringAndSize(ptr::null(), resized(len) as ffi::Py_ssize_t);
        if out.is_null() {
            return out;
        }
        if transform(data.cast(), len, ffi::PyBytes_AsString(out).cast()) != 1 {
            ffi::Py_DECREF(out);
            ffi::PyErr_SetString(ffi::PyExc_ValueError, c"the cipher refused the frame".as_ptr());
            return ptr::null_mut();
        }
        out
    }
}

unsafe extern "C" fn encrypt(_module: *mut ffi::PyObject, frame: *mut ffi::PyObject) -> *mut ffi::PyObject {
    unsafe { transformed(frame, CLEAR, |len| len + OVERHEAD, seal) }
}

unsafe extern "C" fn decrypt(_module: *mut ffi::PyObject, sealed: *mut ffi::PyObject) -> *mut ffi::PyObject {
    unsafe { transformed(sealed, CLEAR + OVERHEAD, |len| len - OVERHEAD, open) }
}

/// Returns ns per frame of `seal`, which receives a frame, its length and the place for the result. The frames are
/// contiguous, and so are the results. With `walk` false, all are the same frame and the same place.
fn per_frame(size: usize, frames: usize, walk: bool, mut seal: impl FnMut(*const u8, usize, *mut u8)) -> f64 {
    let (places, step) = if walk { (frames, 1) } else { (1, 0) };
    // No page of the results is zero, or the first write to each would map it.
    let (from, mut to) = (vec![7_u8; size * places], vec![1_u8; (size + OVERHEAD) * places]);
    let start = Instant::now();
    for n in 0..frames {
        let place = n * step;
        unsafe { seal(from.as_ptr().add(place * size), size, to.as_mut_ptr().add(place * (size + OVERHEAD))) };
    }
    start.elapsed().as_nanos() as f64 / frames as f64
}

unsafe fn aws_lc_ns(arguments: *mut ffi::PyObject, walk: bool) -> *mut ffi::PyObject {
    let (mut size, mut frames): (ffi::Py_ssize_t, ffi::Py_ssize_t) = (0, 0);
    unsafe {
        if ffi::PyArg_ParseTuple(arguments, c"nn".as_ptr(), &mut size, &mut frames) == 0 {
            return ptr::null_mut();
        }
        let ns = per_frame((size as usize).max(CLEAR), frames.max(1) as usize, walk, |frame, len, out| {
            seal(frame, len, out);
        });
        ffi::PyFloat_FromDouble(ns)
    }
}

unsafe fn ipsec_mb_ns(arguments: *mut ffi::PyObject, walk: bool) -> *mut ffi::PyObject {
    let (mut size, mut frames): (ffi::Py_ssize_t, ffi::Py_ssize_t) = (0, 0);
    let (mut expand_address, mut seal_address): (ffi::Py_ssize_t, ffi::Py_ssize_t) = (0, 0);
    unsafe {
        let parsed = ffi::PyArg_ParseTuple(
            arguments,
            c"nnnn".as_ptr(),
            &mut size,
            &mut frames,
            &mut expand_address,
            &mut seal_address,
        );
        if parsed == 0 {
            return ptr::null_mut();
        }
        if expand_address == 0 || seal_address == 0 {
            ffi::PyErr_SetString(ffi::PyExc_ValueError, c"the address of a function is 0".as_ptr());
            return ptr::null_mut();
        }
        let size = (size as usize).max(CLEAR);
        let other = ipsec_mb::IpsecMb::new(expand_address as usize, seal_address as usize);
        if !other.opens(size) {
            ffi::PyErr_SetString(ffi::PyExc_ValueError, c"AWS-LC does not open what ipsec-mb seals".as_ptr());
            return ptr::null_mut();
        }
        let ns = per_frame(size, frames.max(1) as usize, walk, |frame, len, out| other.seal(frame, len, out));
        ffi::PyFloat_FromDouble(ns)
    }
}

/// `aws_lc(size, frames)`: returns ns per frame of sealing without Python, always in one buffer.
unsafe extern "C" fn aws_lc(_module: *mut ffi::PyObject, arguments: *mut ffi::PyObject) -> *mut ffi::PyObject {
    unsafe { aws_lc_ns(arguments, false) }
}

/// `aws_lc_walk(size, frames)`: returns the same from contiguous frames into contiguous memory, as a batch does.
unsafe extern "C" fn aws_lc_walk(_module: *mut ffi::PyObject, arguments: *mut ffi::PyObject) -> *mut ffi::PyObject {
    unsafe { aws_lc_ns(arguments, true) }
}

/// `ipsec_mb(size, frames, expand, seal)`: as `aws_lc`, with the two functions of ipsec-mb at these addresses.
unsafe extern "C" fn ipsec_mb(_module: *mut ffi::PyObject, arguments: *mut ffi::PyObject) -> *mut ffi::PyObject {
    unsafe { ipsec_mb_ns(arguments, false) }
}

/// `ipsec_mb_walk(size, frames, expand, seal)`: as `aws_lc_walk`, with the two functions at these addresses.
unsafe extern "C" fn ipsec_mb_walk(_module: *mut ffi::PyObject, arguments: *mut ffi::PyObject) -> *mut ffi::PyObject {
    unsafe { ipsec_mb_ns(arguments, true) }
}

unsafe fn rival(
    bytes: *mut ffi::PyObject,
    transform: fn(&[u8]) -> sframe::error::Result<Vec<u8>>,
) -> *mut ffi::PyObject {
    unsafe {
        let (mut data, mut len) = (ptr::null_mut(), 0);
        if ffi::PyBytes_AsStringAndSize(bytes, &mut data, &mut len) != 0 {
            return ptr::null_mut();
        }
        match transform(std::slice::from_raw_parts(data.cast(), len as usize)) {
            Ok(out) => ffi::PyBytes_FromStringAndSize(out.as_ptr().cast(), out.len() as ffi::Py_ssize_t),
            Err(_) => refused(),
        }
    }
}

unsafe fn rival_ns(
    arguments: *mut ffi::PyObject,
    timed: fn(usize, usize) -> sframe::error::Result<f64>,
) -> *mut ffi::PyObject {
    let (mut size, mut frames): (ffi::Py_ssize_t, ffi::Py_ssize_t) = (0, 0);
    unsafe {
        if ffi::PyArg_ParseTuple(arguments, c"nn".as_ptr(), &mut size, &mut frames) == 0 {
            return ptr::null_mut();
        }
        match timed(size.max(1) as usize, frames.max(1) as usize) {
            Ok(ns) => ffi::PyFloat_FromDouble(ns),
            Err(_) => refused(),
        }
    }
}

unsafe fn refused() -> *mut ffi::PyObject {
    unsafe { ffi::PyErr_SetString(ffi::PyExc_ValueError, c"the cipher refused the frame".as_ptr()) };
    ptr::null_mut()
}

/// `sframe_rs_encrypt(frame)`: seals one frame, for the check before anything is timed.
unsafe extern "C" fn sframe_rs_encrypt(_module: *mut ffi::PyObject, frame: *mut ffi::PyObject) -> *mut ffi::PyObject {
    unsafe { rival(frame, sframe_rs::encrypt) }
}

/// `sframe_rs_decrypt(sealed)`: opens one frame, for the same check.
unsafe extern "C" fn sframe_rs_decrypt(_module: *mut ffi::PyObject, sealed: *mut ffi::PyObject) -> *mut ffi::PyObject {
    unsafe { rival(sealed, sframe_rs::decrypt) }
}

/// `sframe_rs_encrypt_ns(size, frames)`: returns ns per frame of sealing without Python.
unsafe extern "C" fn sframe_rs_encrypt_ns(_: *mut ffi::PyObject, arguments: *mut ffi::PyObject) -> *mut ffi::PyObject {
    unsafe { rival_ns(arguments, sframe_rs::encrypt_ns) }
}

/// `sframe_rs_decrypt_ns(size, frames)`: returns ns per frame of opening without Python.
unsafe extern "C" fn sframe_rs_decrypt_ns(_: *mut ffi::PyObject, arguments: *mut ffi::PyObject) -> *mut ffi::PyObject {
    unsafe { rival_ns(arguments, sframe_rs::decrypt_ns) }
}

struct Methods([ffi::PyMethodDef; 11]);
unsafe impl Sync for Methods {}

const fn method(name: &'static CStr, function: ffi::PyCFunction, flags: c_int) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: function },
        ml_flags: flags,
        ml_doc: ptr::null(),
    }
}

static METHODS: Methods = Methods([
    method(c"encrypt", encrypt, ffi::METH_O),
    method(c"decrypt", decrypt, ffi::METH_O),
    method(c"aws_lc", aws_lc, ffi::METH_VARARGS),
    method(c"aws_lc_walk", aws_lc_walk, ffi::METH_VARARGS),
    method(c"ipsec_mb", ipsec_mb, ffi::METH_VARARGS),
    method(c"ipsec_mb_walk", ipsec_mb_walk, ffi::METH_VARARGS),
    method(c"sframe_rs_encrypt", sframe_rs_encrypt, ffi::METH_O),
    method(c"sframe_rs_decrypt", sframe_rs_decrypt, ffi::METH_O),
    method(c"sframe_rs_encrypt_ns", sframe_rs_encrypt_ns, ffi::METH_VARARGS),
    method(c"sframe_rs_decrypt_ns", sframe_rs_decrypt_ns, ffi::METH_VARARGS),
    ffi::PyMethodDef::zeroed(),
]);

struct Definition(std::cell::UnsafeCell<ffi::PyModuleDef>);
unsafe impl Sync for Definition {}

static DEFINITION: Definition = Definition(std::cell::UnsafeCell::new(ffi::PyModuleDef {
    m_base: ffi::PyModuleDef_HEAD_INIT,
    m_name: c"floor".as_ptr(),
    m_doc: ptr::null(),
    m_size: 0,
    m_methods: METHODS.0.as_ptr().cast_mut(),
    m_slots: ptr::null_mut(),
    m_traverse: None,
    m_clear: None,
    m_free: None,
}));

/// Initialises the module. Python calls it on import.
///
/// # Safety
/// Only Python may call it, with the GIL held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn PyInit_floor() -> *mut ffi::PyObject {
    unsafe { ffi::PyModule_Create(DEFINITION.0.get()) }
}
