//! `frameseal._native`: the core's classes for Python. No logic: arguments in, one match from errors to exceptions, bytes
//! out. The docstrings that users see stand in `_native.pyi`.
#![allow(missing_docs)]

mod arrow;
mod batch;
mod buffers;
mod data;
mod errors;
mod keys;
mod numbers;
mod text;

use std::sync::Arc;

use frameseal::{Codec, fork};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use buffers::{Input, written};
use errors::{decrypt_error, encrypt_error, key_error};
use keys::KeyRing;
use text::text;

/// From this size on a second thread doubles the throughput of frames; at 40 kB it adds nothing, and each frame waits for
/// the GIL to come back, 5 ms at the worst beside a busy thread (benches/latency.py measures both).
const DETACH_FROM: usize = 64 * 1024;

/// Decides whether a frame's work is done without the GIL. Nothing else does.
fn maybe_detach<T: Send>(py: Python<'_>, len: usize, work: impl FnOnce() -> T + Send) -> T {
    if len < DETACH_FROM { work() } else { detach(py, work) }
}

/// Works without the GIL, and keeps `os.fork` waiting meanwhile. The guard goes before the GIL is taken back: the thread that
/// forks has it.
///
/// What is done with the GIL needs no guard, since `os.fork` has the GIL then. In a build without one `os.fork` stops all
/// other threads first, and those that are attached stop in Python alone.
fn detach<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(|| {
        let _inside = fork::enter();
        work()
    })
}

/// Works on a batch without the GIL. It enters by itself, and lets `os.fork` pass between stretches of its frames.
fn detach_batch<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(work)
}

fn codec(name: Option<&Bound<'_, PyAny>>) -> PyResult<Codec> {
    let Some(name) = name else { return Ok(Codec::Unknown) };
    Codec::by_name(text("codec", name)?).ok_or_else(|| {
        let known: Vec<_> = Codec::NAMED.iter().map(|(name, _)| *name).collect();
        PyValueError::new_err(format!("unknown codec: expected one of {}, or None", known.join(", ")))
    })
}

fn no_metadata() -> PyErr {
    PyValueError::new_err("only the profile sframe has metadata: leave it out")
}

fn stats<'py>(py: Python<'py>, entries: Vec<(&'static str, u64)>) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in entries {
        dict.set_item(name, value)?;
    }
    Ok(dict)
}

#[pyclass(frozen, module = "frameseal", name = "Encryptor")]
struct Encryptor {
    cipher: frameseal::Encryptor,
    _ring: Py<KeyRing>,
}

#[pymethods]
impl Encryptor {
    #[new]
    #[pyo3(signature = (ring, codec=None))]
    fn new(ring: &Bound<'_, KeyRing>, codec: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let codec = self::codec(codec)?;
        let cipher = frameseal::Encryptor::new(Arc::clone(&ring.get().ring), codec).map_err(key_error)?;
        Ok(Self { cipher, _ring: ring.clone().unbind() })
    }

    #[pyo3(signature = (frame, metadata=None), text_signature = "($self, frame, metadata=b'')")]
    fn encrypt<'py>(
        &self,
        py: Python<'py>,
        frame: Input<'_, 'py>,
        metadata: Option<Input<'_, 'py>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let metadata = metadata.as_ref().map_or(&[][..], Input::as_slice);
        if !metadata.is_empty() && !self.cipher.takes_metadata() {
            return Err(no_metadata());
        }
        // Borrowed where it stands: moving a plan costs as much as a lock.
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

#[pyclass(frozen, module = "frameseal", name = "SenderBindings")]
struct SenderBindings(Arc<frameseal::SenderBindings>);

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
struct Decryptor {
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
        let codec = self::codec(codec)?;
        let decryptor = frameseal::Decryptor::new(Arc::clone(&ring.get().ring), codec, replay_window);
        let decryptor = match (senders, participant_id) {
            (Some(senders), Some(participant)) => {
                let bindings = Arc::clone(&senders.get().0);
                let participant = text("participant_id", participant)?;
                decryptor.and_then(|decryptor| decryptor.with_sender(bindings, participant))
            }
            (None, None) => decryptor,
            _ => return Err(PyValueError::new_err("senders and participant_id go together: give both, or none")),
        };
        let cipher = match sif_trailer {
            Some(trailer) => decryptor.and_then(|decryptor| decryptor.with_injected(trailer.as_slice())),
            None => decryptor,
        }
        .map_err(key_error)?;
        Ok(Self { cipher, _ring: ring.clone().unbind() })
    }

    #[pyo3(signature = (sealed, metadata=None), text_signature = "($self, sealed, metadata=b'')")]
    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        sealed: Input<'_, 'py>,
        metadata: Option<Input<'_, 'py>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let metadata = metadata.as_ref().map_or(&[][..], Input::as_slice);
        if !metadata.is_empty() && !self.cipher.takes_metadata() {
            return Err(no_metadata());
        }
        let sealed = self.cipher.cut_injected(sealed.as_slice());
        if let Some(payload) = self.cipher.injected(sealed).map_err(decrypt_error)? {
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

    #[pyo3(signature = (data, offsets=None, threads=None, *, out=None))]
    fn decrypt_batch<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        offsets: Option<&Bound<'py, PyAny>>,
        #[pyo3(from_py_with = numbers::or_none::threads)] threads: Option<usize>,
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        batch::decrypt(py, &self.cipher, data, offsets, batch::threads(threads)?, out)
    }

    #[getter]
    fn consecutive_failures(&self) -> u32 {
        self.cipher.consecutive_failures()
    }

    #[getter]
    fn injected(&self) -> u64 {
        self.cipher.injected_so_far()
    }

    #[getter]
    fn sif_trailer<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.cipher.injected_trailer().map(|trailer| PyBytes::new(py, &trailer))
    }

    #[setter]
    fn set_sif_trailer(&self, trailer: Option<Input<'_, '_>>) -> PyResult<()> {
        self.cipher.set_injected(trailer.as_ref().map(Input::as_slice)).map_err(key_error)
    }

    fn without_injected<'py>(&self, py: Python<'py>, frame: Input<'_, 'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.cipher.without_injected(frame.as_slice()))
    }

    #[staticmethod]
    #[pyo3(signature = (codec, frame))]
    fn holds_blank(codec: Option<&Bound<'_, PyAny>>, frame: Input<'_, '_>) -> PyResult<bool> {
        Ok(frameseal::Decryptor::holds_blank(self::codec(codec)?, frame.as_slice()))
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats(py, self.cipher.stats().entries())
    }
}

#[pymodule(gil_used = false)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::{
        Decryptor, Encryptor, SenderBindings, data::DataCryptor, keys::DerivedKey, keys::KeyRing, keys::Secret,
    };

    #[allow(non_upper_case_globals)]
    #[pymodule_export]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// Does what is done once per process, before a fork could catch another thread at it.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        drop(frameseal::fork::enter()); // registers its handlers
        super::errors::import(module.py())
    }
}
