//! Bytes that come in: `bytes` is borrowed, since nothing can change it; every other buffer is copied once, since
//! another thread could.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
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

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        match object.cast::<PyBytes>() {
            Ok(bytes) => Ok(Self::Borrowed(bytes)),
            Err(_) => PyBuffer::<u8>::get(&object)?.to_vec(object.py()).map(Self::Copied),
        }
    }
}

/// Key material: copied into memory that is cleared. The caller can clear its own where it passed a `bytearray`.
pub(crate) fn secret_bytes(object: &Bound<'_, PyAny>) -> PyResult<Zeroizing<Vec<u8>>> {
    if object.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err("raw key material is bytes; a str is a passphrase: use set_passphrase"));
    }
    Ok(Zeroizing::new(PyBuffer::<u8>::get(object)?.to_vec(object.py())?))
}
