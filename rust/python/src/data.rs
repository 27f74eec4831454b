//! `DataCryptor`.

use std::sync::Arc;

use frameseal::{ApiMisuse, SealedData};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::buffers::Input;
use crate::errors::{api_misuse, config_error, decrypt_error, encrypt_error};
use crate::keys::KeyRing;
use crate::numbers;
use crate::{maybe_detach, stats};

#[pyclass(frozen, module = "frameseal", name = "DataCryptor")]
pub(crate) struct DataCryptor {
    cipher: frameseal::DataCryptor,
    _ring: Py<KeyRing>,
}

impl DataCryptor {
    /// Returns the context.
    ///
    /// # Errors
    /// `ValueError` for a context that this cryptor would ignore: the caller would expect protection.
    fn context<'a>(&self, context: Option<&'a Input<'_, '_>>) -> PyResult<&'a [u8]> {
        match context.map(Input::as_slice) {
            Some(context) if !context.is_empty() && !self.cipher.binds_context() => Err(PyValueError::new_err(
                "context: it has no effect without bind_context=True, leave it out or bind it",
            )),
            context => Ok(context.unwrap_or_default()),
        }
    }

    fn check_parts(&self) -> PyResult<()> {
        if self.cipher.has_parts() { Ok(()) } else { Err(api_misuse(ApiMisuse::PacketParts)) }
    }
}

#[pymethods]
impl DataCryptor {
    #[new]
    #[pyo3(signature = (ring, bind_context=false, *, replay_window=None))]
    fn new(
        ring: &Bound<'_, KeyRing>,
        bind_context: bool,
        #[pyo3(from_py_with = numbers::or_none::replay_window)] replay_window: Option<usize>,
    ) -> PyResult<Self> {
        let core = Arc::clone(&ring.get().ring);
        let cipher = frameseal::DataCryptor::new(core, bind_context, replay_window).map_err(config_error)?;
        Ok(Self { cipher, _ring: ring.clone().unbind() })
    }

    #[getter]
    fn bind_context(&self) -> bool {
        self.cipher.binds_context()
    }

    #[pyo3(signature = (payload, context=None), text_signature = "($self, payload, context=b'')")]
    fn encrypt<'py>(
        &self,
        py: Python<'py>,
        payload: Input<'_, 'py>,
        context: Option<Input<'_, 'py>>,
    ) -> PyResult<(Bound<'py, PyBytes>, u8, Bound<'py, PyBytes>)> {
        self.check_parts()?;
        let (payload, context) = (payload.as_slice(), self.context(context.as_ref())?);
        let sealed =
            maybe_detach(py, payload.len(), || self.cipher.encrypt(payload, context)).map_err(encrypt_error)?;
        let SealedData { iv, key_index, ciphertext } = sealed;
        Ok((PyBytes::new(py, &iv), key_index, PyBytes::new(py, &ciphertext)))
    }

    #[pyo3(
        signature = (iv, key_index, ciphertext, context=None),
        text_signature = "($self, iv, key_index, ciphertext, context=b'')"
    )]
    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        iv: Input<'_, 'py>,
        #[pyo3(from_py_with = numbers::key_index)] key_index: u64,
        ciphertext: Input<'_, 'py>,
        context: Option<Input<'_, 'py>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.check_parts()?;
        let (iv, sealed, context) = (iv.as_slice(), ciphertext.as_slice(), self.context(context.as_ref())?);
        let payload = maybe_detach(py, sealed.len(), || self.cipher.decrypt(iv, key_index, sealed, context));
        Ok(PyBytes::new(py, &payload.map_err(decrypt_error)?))
    }

    #[pyo3(signature = (payload, context=None), text_signature = "($self, payload, context=b'')")]
    fn encrypt_packet<'py>(
        &self,
        py: Python<'py>,
        payload: Input<'_, 'py>,
        context: Option<Input<'_, 'py>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (payload, context) = (payload.as_slice(), self.context(context.as_ref())?);
        let packet = maybe_detach(py, payload.len(), || self.cipher.encrypt_packet(payload, context));
        Ok(PyBytes::new(py, &packet.map_err(encrypt_error)?))
    }

    #[pyo3(signature = (packet, context=None), text_signature = "($self, packet, context=b'')")]
    fn decrypt_packet<'py>(
        &self,
        py: Python<'py>,
        packet: Input<'_, 'py>,
        context: Option<Input<'_, 'py>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (packet, context) = (packet.as_slice(), self.context(context.as_ref())?);
        let payload = maybe_detach(py, packet.len(), || self.cipher.decrypt_packet(packet, context));
        Ok(PyBytes::new(py, &payload.map_err(decrypt_error)?))
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats(py, self.cipher.stats().entries())
    }
}
