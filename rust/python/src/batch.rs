//! Batches over buffers of numpy or Arrow: offsets checked, frames borrowed where they lie, one array out.

use frameseal::{Decryptor, Encryptor};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrow;
use crate::errors::encrypt_error;

/// Frames in a buffer: where each begins and ends.
struct Frames {
    data: PyBuffer<u8>,
    bounds: Vec<usize>,
}

impl Frames {
    fn new(data: &Bound<'_, PyAny>, offsets: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let wrong = |what: &str| PyTypeError::new_err(format!("{what}: pass contiguous uint8 data and int64 offsets"));
        let (data, offsets) = match offsets {
            Some(offsets) => (data.clone(), offsets.clone()),
            None => arrow::parts(data)?,
        };
        let (data, offsets) = (&data, &offsets);
        let data = PyBuffer::<u8>::get(data).map_err(|_| wrong("data is no buffer of bytes"))?;
        if !data.is_c_contiguous() || data.dimensions() != 1 {
            return Err(wrong("data is not contiguous, or has more than one dimension"));
        }
        let py = offsets.py();
        let bounds: Result<Vec<usize>, _> = match PyBuffer::<i64>::get(offsets) {
            Ok(offsets) => offsets.to_vec(py)?.into_iter().map(usize::try_from).collect(),
            Err(_) => {
                let offsets =
                    PyBuffer::<i32>::get(offsets).map_err(|_| wrong("offsets are no buffer of int64 or int32"))?;
                offsets.to_vec(py)?.into_iter().map(usize::try_from).collect()
            }
        };
        let bounds = bounds.map_err(|_| PyValueError::new_err("an offset is negative"))?;
        let Some(&end) = bounds.last() else {
            return Err(PyValueError::new_err("there is one offset more than frames: pass at least one"));
        };
        if !bounds.is_sorted() {
            return Err(PyValueError::new_err("offsets have to ascend"));
        }
        if end > data.item_count() {
            let len = data.item_count();
            return Err(PyValueError::new_err(format!("the last offset is {end}, but data has {len} bytes")));
        }
        Ok(Self { data, bounds })
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let bytes = bytes_of(&self.data);
        self.bounds.windows(2).map(move |ends| match ends {
            &[from, to] => bytes.get(from..to).unwrap_or_default(),
            _ => &[],
        })
    }
}

/// The bytes of a contiguous buffer, without a copy.
#[allow(unsafe_code)]
fn bytes_of(buffer: &PyBuffer<u8>) -> &[u8] {
    if buffer.item_count() == 0 {
        return &[];
    }
    // SAFETY: the exporter keeps this memory in place while the buffer is held, and it is contiguous. That nobody writes
    // to it meanwhile is the caller's part (see the stub), as with every function of numpy that lets go of the GIL: what
    // is written there makes a frame that does not authenticate, or one that nobody made.
    unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.item_count()) }
}

/// Room for so many bytes: a new array, or the caller's.
struct Room<'py> {
    array: Bound<'py, PyAny>,
    buffer: PyBuffer<u8>,
}

impl<'py> Room<'py> {
    fn new(py: Python<'py>, needed: usize, given: Option<Bound<'py, PyAny>>) -> PyResult<Self> {
        let array = match given {
            Some(array) => array,
            None => py.import("numpy")?.call_method1("empty", (needed, "uint8"))?,
        };
        let wrong = || PyTypeError::new_err("out has to be a writable, contiguous array of uint8");
        let buffer = PyBuffer::<u8>::get(&array).map_err(|_| wrong())?;
        if buffer.readonly() || !buffer.is_c_contiguous() || buffer.dimensions() != 1 {
            return Err(wrong());
        }
        if buffer.item_count() < needed {
            let has = buffer.item_count();
            return Err(PyValueError::new_err(format!("out has {has} bytes, and {needed} are needed")));
        }
        Ok(Self { array, buffer })
    }

    #[allow(unsafe_code)]
    fn bytes(&mut self, len: usize) -> &mut [u8] {
        if len == 0 {
            return &mut [];
        }
        // SAFETY: `new` saw to it that the memory is writable, contiguous and at least as long, and the exporter keeps it
        // in place. It is a new array that nobody else has, or the caller's `out`, which is the caller's to leave alone
        // (see the stub). It overlaps no input: `new_room` refuses that.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.buf_ptr().cast::<u8>(), len) }
    }
}

fn new_room<'py>(
    py: Python<'py>,
    needed: usize,
    given: Option<Bound<'py, PyAny>>,
    input: &PyBuffer<u8>,
) -> PyResult<Room<'py>> {
    let room = Room::new(py, needed, given)?;
    let (ours, theirs) = (room.buffer.buf_ptr().addr(), input.buf_ptr().addr());
    if ours < theirs + input.item_count() && theirs < ours + room.buffer.item_count() {
        return Err(PyValueError::new_err("out overlaps data: give it memory of its own"));
    }
    Ok(room)
}

/// Offsets of pieces of these lengths, as a numpy array of int64.
fn offsets_of<'py>(py: Python<'py>, lens: impl Iterator<Item = usize>) -> PyResult<Bound<'py, PyAny>> {
    let mut bytes = 0_i64.to_ne_bytes().to_vec();
    let mut end = 0;
    for len in lens {
        end += i64::try_from(len)?;
        bytes.extend_from_slice(&end.to_ne_bytes());
    }
    array(py, bytes, "int64")
}

fn array<'py>(py: Python<'py>, bytes: Vec<u8>, dtype: &str) -> PyResult<Bound<'py, PyAny>> {
    let options = PyDict::new(py);
    options.set_item("dtype", dtype)?;
    let made = pyo3::types::PyByteArray::new(py, &bytes);
    py.import("numpy")?.call_method("frombuffer", (made,), Some(&options))
}

/// None is as many as there are cores, which the core has as 0.
pub(crate) fn threads(asked: Option<usize>) -> PyResult<usize> {
    match asked {
        Some(0) => Err(PyValueError::new_err("threads is 1 or more, or None for as many as there are cores")),
        asked => Ok(asked.unwrap_or(0)),
    }
}

pub(crate) fn encrypt<'py>(
    py: Python<'py>,
    encryptor: &Encryptor,
    data: &Bound<'py, PyAny>,
    offsets: Option<&Bound<'py, PyAny>>,
    threads: usize,
    out: Option<Bound<'py, PyAny>>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let frames = Frames::new(data, offsets)?;
    let failed = |(place, error)| {
        let error = encrypt_error(error);
        let _ = error.value(py).call_method1("add_note", (format!("frame {place} of the batch"),));
        error
    };
    let batch = py.detach(|| encryptor.plan_batch(frames.iter(), threads)).map_err(failed)?;
    let most = batch.room();
    let mut room = new_room(py, most, out, &frames.data)?;
    let place = room.bytes(most);
    let lens = py.detach(|| batch.seal_into(place, threads)).map_err(failed)?;
    let len = lens.iter().sum();
    Ok((head(&room.array, len)?, offsets_of(py, lens.into_iter())?))
}

pub(crate) fn decrypt<'py>(
    py: Python<'py>,
    decryptor: &Decryptor,
    data: &Bound<'py, PyAny>,
    offsets: Option<&Bound<'py, PyAny>>,
    threads: usize,
    out: Option<Bound<'py, PyAny>>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let frames = Frames::new(data, offsets)?;
    let batch = py.detach(|| decryptor.plan_batch(frames.iter()));
    let len = batch.room();
    let mut room = new_room(py, len, out, &frames.data)?;
    let place = room.bytes(len);
    let opened = py.detach(|| batch.open_into(place, threads));
    let lens: Vec<usize> = opened.iter().map(|frame| frame.unwrap_or_default()).collect();
    let ok = opened.iter().map(|frame| u8::from(frame.is_ok())).collect();
    let len = lens.iter().sum();
    Ok((head(&room.array, len)?, offsets_of(py, lens.into_iter())?, array(py, ok, "bool")?))
}

/// The first so many bytes of an array: the same memory.
fn head<'py>(array: &Bound<'py, PyAny>, len: usize) -> PyResult<Bound<'py, PyAny>> {
    let py = array.py();
    let whole = py.import("numpy")?.call_method1("asarray", (array,))?;
    whole.get_item(pyo3::types::PySlice::new(py, 0, isize::try_from(len)?, 1))
}
