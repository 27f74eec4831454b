//! Input bytes. A `bytes` object is borrowed, because it is immutable. Any other buffer is copied once, because another
//! thread could change it.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use zeroize::Zeroizing;

/// The bytes of an argument, such as a frame.
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

    #[inline(always)] // saves a call and a result in memory, per argument and frame
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

/// Returns the buffer of an object.
///
/// # Errors
/// `TypeError` for an object without a buffer of bytes.
fn bytes_of(object: &Bound<'_, PyAny>) -> PyResult<PyBuffer<u8>> {
    PyBuffer::<u8>::get(object).map_err(|error| {
        if error.is_instance_of::<PyBufferError>(object.py()) {
            PyTypeError::new_err("expected bytes, or a buffer whose items are bytes (uint8)")
        } else {
            error
        }
    })
}

/// Returns a new `bytes` of length `len` that `fill` writes. The memory is not zeroed first, which would cost a quarter
/// of the time of the AEAD at 100 kB.
///
/// `fill` must write every byte if it returns `Ok`.
#[allow(unsafe_code)]
pub(crate) fn written<'py>(
    py: Python<'py>,
    len: usize,
    fill: impl FnOnce(&mut [u8]) -> PyResult<()>,
) -> PyResult<Bound<'py, PyBytes>> {
    let size = ffi::Py_ssize_t::try_from(len)?;
    // SAFETY: without a source, CPython returns a new object with `size` writable bytes and a NUL. This function is its
    // only owner. The shared empty object has no byte to write. A foreign allocator returned the memory, so Rust treats
    // its content as arbitrary bytes. No code reads them: `fill` only writes, and if it fails, the object is dropped
    // here.
    unsafe {
        let object = Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(std::ptr::null(), size))?;
        let start = ffi::PyBytes_AsString(object.as_ptr()).cast::<u8>();
        fill(std::slice::from_raw_parts_mut(start, len))?;
        Ok(object.cast_into_unchecked())
    }
}

/// Copies the key material of the argument `name` into memory that is cleared on drop. A caller that passes a `bytearray`
/// can clear its own copy.
///
/// # Errors
/// `TypeError` for an object without a buffer of bytes. `advice` ends the message for a str. `None` means that the caller
/// accepts a str.
pub(crate) fn secret_bytes(
    name: &str,
    advice: Option<&str>,
    object: &Bound<'_, PyAny>,
) -> PyResult<Zeroizing<Vec<u8>>> {
    if let Some(advice) = advice
        && object.is_instance_of::<PyString>()
    {
        return Err(PyTypeError::new_err(format!("{name} must be bytes, not str: {advice}")));
    }
    let buffer = bytes_of(object).map_err(|error| {
        if error.is_instance_of::<PyTypeError>(object.py()) {
            let kind = object.get_type().name().map_or_else(|_| String::from("this object"), |kind| kind.to_string());
            let text = if advice.is_none() { "a str, " } else { "" };
            PyTypeError::new_err(format!(
                "{name} must be {text}bytes or a buffer whose items are bytes (uint8), not {kind}"
            ))
        } else {
            error
        }
    })?;
    Ok(Zeroizing::new(buffer.to_vec(object.py())?))
}
