//! `Encryptor`.

use std::sync::Arc;

use frameseal::PayloadFormat;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::buffers::{Input, written};
use crate::errors::{config_error, encrypt_error};
use crate::keys::KeyRing;
use crate::payloads::{self, SealedPayloads};
use crate::{batch, maybe_detach, numbers, stats};

#[pyclass(frozen, module = "frameseal", name = "Encryptor")]
pub(crate) struct Encryptor {
    cipher: frameseal::Encryptor,
    format: Option<PayloadFormat>,
    _ring: Py<KeyRing>,
}

#[pymethods]
impl Encryptor {
    #[new]
    #[pyo3(signature = (ring, codec=None))]
    fn new(ring: &Bound<'_, KeyRing>, codec: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let codec = crate::codec(codec)?;
        let cipher = frameseal::Encryptor::new(Arc::clone(&ring.get().ring), codec).map_err(config_error)?;
        let format = codec.info().and_then(|info| info.payloads);
        Ok(Self { cipher, format, _ring: ring.clone().unbind() })
    }

    #[pyo3(signature = (frame, metadata=None), text_signature = "($self, frame, metadata=b'')")]
    fn encrypt<'py>(
        &self,
        py: Python<'py>,
        frame: Input<'_, 'py>,
        metadata: Option<Input<'_, 'py>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let metadata = crate::metadata(metadata.as_ref(), || self.cipher.authenticates_metadata())?;
        // Borrowed in place, because moving a plan costs as much as a lock.
        let planned = self.cipher.plan(frame.as_slice(), metadata);
        let plan = match &planned {
            Ok(Some(plan)) => plan,
            Ok(None) => return Ok(PyBytes::new(py, b"")),
            Err(error) => return Err(encrypt_error(*error)),
        };
        let mut escapes = 0;
        let sealed = written(py, plan.sealed_len(), |out| {
            escapes = maybe_detach(py, out.len(), || plan.seal_into(out)).map_err(encrypt_error)?;
            Ok(())
        })?;
        if escapes == 0 {
            return Ok(sealed);
        }
        let sealed = sealed.as_bytes();
        written(py, sealed.len() + escapes, |out| plan.escape_into(sealed, out).map_err(encrypt_error))
    }

    #[pyo3(signature = (payloads, sealed, metadata=None), text_signature = "($self, payloads, sealed, metadata=b'')")]
    fn encrypt_payloads<'py>(
        &self,
        py: Python<'py>,
        payloads: &Bound<'py, PyList>,
        sealed: &Bound<'_, SealedPayloads>,
        metadata: Option<Input<'_, 'py>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let metadata = crate::metadata(metadata.as_ref(), || self.cipher.authenticates_metadata())?;
        payloads::encrypt(py, &self.cipher, self.format, payloads, sealed.get(), metadata)
    }

    #[pyo3(signature = (data, offsets=None, threads=None, *, out=None))]
    fn encrypt_batch<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        offsets: Option<&Bound<'py, PyAny>>,
        #[pyo3(from_py_with = numbers::or_none::threads)] threads: Option<usize>,
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        batch::encrypt(py, &self.cipher, data, offsets, batch::threads(threads)?, out)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats(py, self.cipher.stats().entries())
    }
}
