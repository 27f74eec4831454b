//! `Decryptor`, and `SenderBindings`, which the decryptors of a call share.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::buffers::{Input, written};
use crate::errors::{config_error, decrypt_error};
use crate::keys::KeyRing;
use crate::text::text;
use crate::{batch, maybe_detach, numbers, stats};

#[pyclass(frozen, module = "frameseal", name = "SenderBindings")]
pub(crate) struct SenderBindings(Arc<frameseal::SenderBindings>);

#[pymethods]
impl SenderBindings {
    #[new]
    fn new() -> Self {
        Self(Arc::default())
    }

    fn release(&self, participant_id: &Bound<'_, PyAny>) -> PyResult<()> {
        self.0.release(text("participant_id", participant_id)?);
        Ok(())
    }
}

#[pyclass(frozen, module = "frameseal", name = "Decryptor")]
pub(crate) struct Decryptor {
    cipher: frameseal::Decryptor,
    _ring: Py<KeyRing>,
}

#[pymethods]
impl Decryptor {
    #[new]
    #[pyo3(signature = (ring, codec=None, replay_window=None, *, sif_trailer=None, senders=None, participant_id=None))]
    fn new(
        ring: &Bound<'_, KeyRing>,
        codec: Option<&Bound<'_, PyAny>>,
        #[pyo3(from_py_with = numbers::or_none::replay_window)] replay_window: Option<usize>,
        sif_trailer: Option<Input<'_, '_>>,
        senders: Option<&Bound<'_, SenderBindings>>,
        participant_id: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let codec = crate::codec(codec)?;
        let decryptor = frameseal::Decryptor::new(Arc::clone(&ring.get().ring), codec, replay_window);
        let decryptor = match (senders, participant_id) {
            (Some(senders), Some(participant)) => {
                let bindings = Arc::clone(&senders.get().0);
                let participant = text("participant_id", participant)?;
                decryptor.and_then(|decryptor| decryptor.with_sender(bindings, participant))
            }
            (None, None) => decryptor,
            _ => return Err(PyValueError::new_err("senders and participant_id belong together: pass both or neither")),
        };
        let cipher = match sif_trailer {
            Some(trailer) => decryptor.and_then(|decryptor| decryptor.with_sif_trailer(trailer.as_slice())),
            None => decryptor,
        }
        .map_err(config_error)?;
        Ok(Self { cipher, _ring: ring.clone().unbind() })
    }

    #[pyo3(signature = (sealed, metadata=None), text_signature = "($self, sealed, metadata=b'')")]
    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        sealed: Input<'_, 'py>,
        metadata: Option<Input<'_, 'py>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let metadata = crate::metadata(metadata.as_ref(), || self.cipher.authenticates_metadata())?;
        let sealed = self.cipher.cut_sif_frames(sealed.as_slice());
        if let Some(payload) = self.cipher.sif_payload(sealed).map_err(decrypt_error)? {
            return Ok(PyBytes::new(py, payload));
        }
        let opened = self.cipher.with_plan(sealed, metadata, |plan| {
            written(py, plan.frame_len(), |out| {
                maybe_detach(py, out.len(), || plan.open_into(out)).map_err(decrypt_error)
            })
        });
        match opened {
            Ok(Some(frame)) => frame,
            Ok(None) => Ok(PyBytes::new(py, b"")),
            Err(error) => Err(decrypt_error(error)),
        }
    }

    #[pyo3(signature = (data, offsets=None, threads=None, *, rows=None, out=None))]
    fn decrypt_batch<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        offsets: Option<&Bound<'py, PyAny>>,
        #[pyo3(from_py_with = numbers::or_none::threads)] threads: Option<usize>,
        rows: Option<&Bound<'py, PyAny>>,
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        batch::decrypt(py, &self.cipher, data, offsets, rows, batch::threads(threads)?, out)
    }

    #[getter]
    fn consecutive_failures(&self) -> u32 {
        self.cipher.consecutive_failures()
    }

    #[getter]
    fn sif_frames(&self) -> u64 {
        self.cipher.sif_frames()
    }

    #[getter]
    fn sif_trailer<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.cipher.sif_trailer().map(|trailer| PyBytes::new(py, &trailer))
    }

    #[setter]
    fn set_sif_trailer(&self, trailer: Option<Input<'_, '_>>) -> PyResult<()> {
        self.cipher.set_sif_trailer(trailer.as_ref().map(Input::as_slice)).map_err(config_error)
    }

    fn without_sif_frames<'py>(&self, py: Python<'py>, frame: Input<'_, 'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.cipher.without_sif_frames(frame.as_slice()))
    }

    fn key_id_of(&self, frame: Input<'_, '_>) -> Option<u64> {
        self.cipher.key_id_of(frame.as_slice())
    }

    #[staticmethod]
    #[pyo3(signature = (profile, codec, frame))]
    fn holds_blank(
        profile: &Bound<'_, PyAny>,
        codec: Option<&Bound<'_, PyAny>>,
        frame: Input<'_, '_>,
    ) -> PyResult<bool> {
        Ok(frameseal::Decryptor::holds_blank(crate::profile(profile)?, crate::codec(codec)?, frame.as_slice()))
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats(py, self.cipher.stats().entries())
    }
}
