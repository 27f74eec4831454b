//! `SealedPayloads`, and sealing of a frame in its RTP payloads.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use frameseal::{Encryptor, Joined, PayloadError, PayloadFormat};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::buffers::Input;
use crate::errors::encrypt_error;
use crate::{maybe_detach, named_codec, numbers};

/// Lengths in an RTP packet (RFC 3550, sections 5.1 and 5.3.1), and in a retransmission (RFC 4588, section 4).
const RTP_HEADER_LEN: usize = 12;
const WORD_LEN: usize = 4;
const RTX_HEADER_LEN: usize = 2;

const CSRC_COUNT: u8 = 0x0F;
const EXTENSION: u8 = 0x10;

/// The latest payloads that a sender sealed. The newest is last.
#[pyclass(frozen, module = "frameseal", name = "SealedPayloads")]
pub(crate) struct SealedPayloads {
    capacity: usize,
    held: Mutex<VecDeque<Entry>>,
}

struct Entry {
    /// The last bytes. They are ciphertext, so they tell payloads apart without reading all of them.
    tail: u64,
    payload: Py<PyBytes>,
}

impl SealedPayloads {
    fn held(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the oldest payloads, so that one frame's payloads are never forgotten for each other.
    fn make_room(&self) {
        let mut held = self.held();
        let beyond = held.len().saturating_sub(self.capacity);
        held.drain(..beyond);
    }

    fn hold(&self, payload: &Bound<'_, PyBytes>) {
        self.held().push_back(Entry { tail: tail(payload.as_bytes()), payload: payload.clone().unbind() });
    }

    fn has(&self, py: Python<'_>, payload: &[u8]) -> bool {
        let tail = tail(payload);
        // The newest first, because a payload is sent soon after it was sealed.
        self.held().iter().rev().any(|entry| entry.tail == tail && entry.payload.as_bytes(py) == payload)
    }
}

#[pymethods]
impl SealedPayloads {
    #[new]
    #[pyo3(signature = (capacity))]
    fn new(#[pyo3(from_py_with = numbers::capacity)] capacity: usize) -> Self {
        Self { capacity, held: Mutex::default() }
    }

    fn holds(&self, py: Python<'_>, payloads: &Bound<'_, PyAny>) -> PyResult<bool> {
        let holds = |payload: &Bound<'_, PyAny>| {
            payload.cast::<PyBytes>().is_ok_and(|payload| self.has(py, payload.as_bytes()))
        };
        if let Ok(payloads) = payloads.cast::<PyList>() {
            return Ok(payloads.iter().all(|payload| holds(&payload)));
        }
        for payload in payloads.try_iter()? {
            if !holds(&payload?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn admits(&self, py: Python<'_>, packet: Input<'_, '_>) -> bool {
        let Some(payload) = rtp_payload(packet.as_slice()) else { return false };
        payload.is_empty()
            || self.has(py, payload)
            || payload.get(RTX_HEADER_LEN..).is_some_and(|original| self.has(py, original))
    }

    fn clear(&self) {
        self.held().clear();
    }

    fn __len__(&self) -> usize {
        self.held().len()
    }
}

/// Returns the last bytes of a payload as a number.
#[inline]
fn tail(payload: &[u8]) -> u64 {
    match payload.last_chunk() {
        Some(tail) => u64::from_ne_bytes(*tail),
        None => payload.iter().fold(1, |tail, &byte| tail << 8 | u64::from(byte)),
    }
}

/// Returns the payload of an RTP packet. Returns `None` if the packet ends within its header.
fn rtp_payload(packet: &[u8]) -> Option<&[u8]> {
    let &first = packet.first()?;
    let mut start = RTP_HEADER_LEN + WORD_LEN * usize::from(first & CSRC_COUNT);
    if first & EXTENSION != 0 {
        let &[_, _, high, low] = packet.get(start..)?.first_chunk()?;
        start += WORD_LEN + WORD_LEN * usize::from(u16::from_be_bytes([high, low]));
    }
    packet.get(start..)
}

/// Seals the frame that `payloads` carry, and returns the payloads of the sealed frame. `sealed` holds them.
pub(crate) fn encrypt<'py>(
    py: Python<'py>,
    encryptor: &Encryptor,
    format: Option<PayloadFormat>,
    payloads: &Bound<'py, PyList>,
    sealed: &SealedPayloads,
    metadata: &[u8],
) -> PyResult<Bound<'py, PyList>> {
    let format = format.ok_or_else(no_format)?;
    let made = PyList::empty(py);
    with_joined(format, payloads, |joined| {
        if joined.frame.is_empty() {
            return Ok(());
        }
        let frame = &*joined.frame;
        let Some(bytes) =
            maybe_detach(py, frame.len(), || encryptor.plan(frame, metadata)?.map(|plan| plan.seal()).transpose())
                .map_err(encrypt_error)?
        else {
            return Ok(());
        };
        sealed.make_room();
        split(py, joined, &bytes, |payload| {
            sealed.hold(&payload);
            made.append(payload)
        })
    })?;
    Ok(made)
}

#[pyfunction]
#[pyo3(signature = (codec, payloads, /))]
pub(crate) fn join_payloads<'py>(
    py: Python<'py>,
    codec: &Bound<'_, PyAny>,
    payloads: &Bound<'py, PyList>,
) -> PyResult<Bound<'py, PyBytes>> {
    with_joined(format_of(codec)?, payloads, |joined| Ok(PyBytes::new(py, &joined.frame)))
}

#[pyfunction]
#[pyo3(signature = (codec, payloads, frame, /))]
pub(crate) fn replace_frame<'py>(
    py: Python<'py>,
    codec: &Bound<'_, PyAny>,
    payloads: &Bound<'py, PyList>,
    frame: Input<'_, 'py>,
) -> PyResult<Bound<'py, PyList>> {
    let format = format_of(codec)?;
    let made = PyList::empty(py);
    with_joined(format, payloads, |joined| split(py, joined, frame.as_slice(), |payload| made.append(payload)))?;
    Ok(made)
}

fn format_of(codec: &Bound<'_, PyAny>) -> PyResult<PayloadFormat> {
    named_codec(codec, "")?.info().and_then(|info| info.payloads).ok_or_else(no_format)
}

/// Joins the payloads, and calls `then` with the frame.
#[inline]
fn with_joined<'py, T>(
    format: PayloadFormat,
    payloads: &Bound<'py, PyList>,
    then: impl FnOnce(&Joined<'_>) -> PyResult<T>,
) -> PyResult<T> {
    // The usual case, without three allocations.
    if payloads.len() == 1 {
        let object = payloads.get_item(0)?;
        let payload = item(&object)?;
        return then(&format.join(&[payload.as_slice()]).map_err(payload_error)?);
    }
    let objects: Vec<_> = payloads.iter().collect();
    let inputs = objects.iter().map(item).collect::<PyResult<Vec<_>>>()?;
    let slices: Vec<_> = inputs.iter().map(Input::as_slice).collect();
    then(&format.join(&slices).map_err(payload_error)?)
}

fn item<'a, 'py>(payload: &'a Bound<'py, PyAny>) -> PyResult<Input<'a, 'py>> {
    payload.extract().map_err(|_| PyTypeError::new_err("payloads must be a list of bytes"))
}

fn split<'py>(
    py: Python<'py>,
    joined: &Joined<'_>,
    frame: &[u8],
    mut emit: impl FnMut(Bound<'py, PyBytes>) -> PyResult<()>,
) -> PyResult<()> {
    joined.split(frame, |payload| emit(PyBytes::new(py, payload)).map_err(Split::Python)).map_err(Into::into)
}

/// An error of splitting a frame: of the format, or of Python.
enum Split {
    Payload(PayloadError),
    Python(PyErr),
}

impl From<PayloadError> for Split {
    fn from(error: PayloadError) -> Self {
        Self::Payload(error)
    }
}

impl From<Split> for PyErr {
    fn from(error: Split) -> Self {
        match error {
            Split::Payload(error) => payload_error(error),
            Split::Python(error) => error,
        }
    }
}

fn payload_error(error: PayloadError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn no_format() -> PyErr {
    PyValueError::new_err("payloads of this codec have no format that is known here")
}
