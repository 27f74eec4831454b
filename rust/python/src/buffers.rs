//! Bytes that come in: `bytes` is borrowed, since nothing can change it; every other buffer is copied once, since
//! another thread could.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use zeroize::Zeroizing;

/// A frame argument.
pub(crate) enum Input<'a, 'py> {
    Borrowed(Borrowed<'a, 'py, PyBytes>),
    Copied(Vec<u8>),
}

impl Input<'_, '_> {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes.as_bytes(),
            Self::Copied(bytes) => bytes,
        }
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Input<'a, 'py> {
    type Error = PyErr;

    #[inline(always)] // a call, and a result through memory, per argument and frame
    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        match object.cast::<PyBytes>() {
            Ok(bytes) => Ok(Self::Borrowed(bytes)),
            Err(_) => copied(object),
        }
    }
}

#[cold]
fn copied<'a, 'py>(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Input<'a, 'py>> {
    bytes_of(&object)?.to_vec(object.py()).map(Input::Copied)
}

/// The buffer of an object, if it is one of bytes.
fn bytes_of(object: &Bound<'_, PyAny>) -> PyResult<PyBuffer<u8>> {
    PyBuffer::<u8>::get(object).map_err(|error| {
        if error.is_instance_of::<PyBufferError>(object.py()) {
            PyTypeError::new_err("expected bytes, or a buffer whose items are bytes (uint8)")
        } else {
            error
        }
    })
}

/// A new `bytes` of `len`, written by `fill`, without the zeros that would be written first (at 100 kB they cost a
/// quarter as much as the AEAD does).
///
/// `fill` must write every byte if it returns Ok.
#[allow(unsafe_code)]
pub(crate) fn written<'py>(
    py: Python<'py>,
    len: usize,
    fill: impl FnOnce(&mut [u8]) -> PyResult<()>,
) -> PyResult<Bound<'py, PyBytes>> {
    let size = ffi::Py_ssize_t::try_from(len)?;
    // SAFETY: without a source, CPython returns a new object with room for `size` bytes (and a NUL), to be written by
    // its only owner, which this is; the empty object that all share gets no byte. What the room holds came from a
    // foreign allocator, so to Rust it is some bytes. Nobody sees them: `fill` only writes, and where it fails the
    // object goes without having left this function.
    unsafe {
        let object = Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(std::ptr::null(), size))?;
        let start = ffi::PyBytes_AsString(object.as_ptr()).cast::<u8>();
        fill(std::slice::from_raw_parts_mut(start, len))?;
        Ok(object.cast_into_unchecked())
    }
}

/// Key material: copied into memory that is cleared. The caller can clear its own where it passed a `bytearray`.
pub(crate) fn secret_bytes(object: &Bound<'_, PyAny>) -> PyResult<Zeroizing<Vec<u8>>> {
    if object.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err("key must be bytes, not str: pass a passphrase to set_passphrase"));
    }
    Ok(Zeroizing::new(bytes_of(object)?.to_vec(object.py())?))
}
