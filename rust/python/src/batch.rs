//! Batches over buffers of numpy or Arrow. The offsets are checked, the frames are borrowed, and one array is returned.

use frameseal::{Decryptor, Encryptor};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict};

use crate::arrow;
use crate::detach_batch;
use crate::errors::encrypt_error;

/// The frames in a buffer, and the offsets between them.
struct BufferedFrames {
    data: PyBuffer<u8>,
    offsets: Offsets,
}

enum Offsets {
    Wide(PyBuffer<i64>),
    Narrow(PyBuffer<i32>),
}

impl BufferedFrames {
    fn new(data: &Bound<'_, PyAny>, offsets: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let wrong = |what: &str| PyTypeError::new_err(format!("{what}: pass contiguous uint8 data and int64 offsets"));
        let (data, offsets) = match offsets {
            Some(offsets) => (data.clone(), offsets.clone()),
            None => arrow::parts(data)?,
        };
        let data = PyBuffer::<u8>::get(&data).map_err(|_| wrong("data is not a buffer of bytes"))?;
        if !data.is_c_contiguous() || data.dimensions() != 1 {
            return Err(wrong("data is not contiguous or has more than one dimension"));
        }
        let offsets = match PyBuffer::<i64>::get(&offsets) {
            Ok(offsets) => Offsets::Wide(offsets),
            Err(_) => Offsets::Narrow(
                PyBuffer::<i32>::get(&offsets).map_err(|_| wrong("offsets is not a buffer of int64 or int32"))?,
            ),
        };
        Ok(Self { data, offsets })
    }

    /// Returns the frames at the indices `rows`, in that order, or all frames for `None`.
    fn chosen(&self, py: Python<'_>, rows: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<&[u8]>> {
        let Some(rows) = rows else { return self.cut(py) };
        let rows = PyBuffer::<i64>::get(rows).and_then(|rows| rows.to_vec(py));
        let rows =
            rows.map_err(|_| PyTypeError::new_err("rows is not a buffer of int64: pass the indices of frames"))?;
        let bytes = bytes_of(&self.data);
        match &self.offsets {
            Offsets::Wide(offsets) => at(bytes, &offsets.to_vec(py)?, &rows),
            Offsets::Narrow(offsets) => at(bytes, &offsets.to_vec(py)?, &rows),
        }
    }

    /// Returns the frames as slices of the buffer.
    fn cut(&self, py: Python<'_>) -> PyResult<Vec<&[u8]>> {
        let bytes = bytes_of(&self.data);
        match &self.offsets {
            Offsets::Wide(offsets) => between(bytes, offsets.to_vec(py)?.into_iter()),
            Offsets::Narrow(offsets) => between(bytes, offsets.to_vec(py)?.into_iter()),
        }
    }
}

/// Returns the pieces of `bytes` between each offset and the next.
fn between<T>(bytes: &[u8], mut offsets: impl ExactSizeIterator<Item = T>) -> PyResult<Vec<&[u8]>>
where
    usize: TryFrom<T>,
{
    let place = |offset| usize::try_from(offset).map_err(|_| PyValueError::new_err("offsets must not be negative"));
    let beyond =
        || PyValueError::new_err(format!("offsets must be between 0 and the length of data, {} bytes", bytes.len()));
    let first = offsets.next();
    let first = first.ok_or_else(|| {
        PyValueError::new_err("offsets must have one entry more than there are frames, so at least one")
    })?;
    let mut from = place(first)?;
    if from > bytes.len() {
        return Err(beyond());
    }
    let mut pieces = Vec::with_capacity(offsets.len());
    for offset in offsets {
        let to = place(offset)?;
        if to < from {
            return Err(PyValueError::new_err("offsets must ascend"));
        }
        pieces.push(bytes.get(from..to).ok_or_else(beyond)?);
        from = to;
    }
    Ok(pieces)
}

/// Returns the pieces of `bytes` at the indices `rows`: each is between an offset and the next.
fn at<'b>(bytes: &'b [u8], offsets: &[impl Copy + TryInto<usize>], rows: &[i64]) -> PyResult<Vec<&'b [u8]>> {
    let piece = |row: &i64| {
        let pair = usize::try_from(*row).ok().and_then(|row| offsets.get(row..)?.first_chunk());
        let [from, to] = *pair.ok_or_else(|| {
            let frames = offsets.len().saturating_sub(1);
            PyValueError::new_err(format!("rows must be at least 0 and below {frames}, the number of frames in data"))
        })?;
        from.try_into().ok().zip(to.try_into().ok()).and_then(|(from, to)| bytes.get(from..to)).ok_or_else(|| {
            let len = bytes.len();
            PyValueError::new_err(format!("offsets must ascend between 0 and the length of data, {len} bytes"))
        })
    };
    rows.iter().map(piece).collect()
}

/// Returns the bytes of a contiguous buffer, without a copy.
#[allow(unsafe_code)]
fn bytes_of(buffer: &PyBuffer<u8>) -> &[u8] {
    if buffer.item_count() == 0 {
        return &[];
    }
    // SAFETY: the exporter keeps this memory in place while the buffer is held, and the memory is contiguous. The
    // caller must not write to it meanwhile (see the stub), as with every numpy function that releases the GIL. A write
    // corrupts a frame: it does not authenticate, or it seals mixed content.
    unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.item_count()) }
}

/// The output array: a new one, or `out` of the caller.
struct OutputArray<'py> {
    array: Bound<'py, PyAny>,
    buffer: PyBuffer<u8>,
}

impl<'py> OutputArray<'py> {
    fn new(py: Python<'py>, needed: usize, given: Option<Bound<'py, PyAny>>) -> PyResult<Self> {
        let array = match given {
            Some(array) => array,
            None => py.import("numpy")?.call_method1("empty", (needed, "uint8"))?,
        };
        let wrong = || PyTypeError::new_err("out must be a writable, contiguous array of uint8");
        let buffer = PyBuffer::<u8>::get(&array).map_err(|_| wrong())?;
        if buffer.readonly() || !buffer.is_c_contiguous() || buffer.dimensions() != 1 {
            return Err(wrong());
        }
        if buffer.item_count() < needed {
            let has = buffer.item_count();
            return Err(PyValueError::new_err(format!("out must have at least {needed} bytes, not {has}")));
        }
        Ok(Self { array, buffer })
    }

    #[allow(unsafe_code)]
    fn bytes(&mut self, len: usize) -> &mut [u8] {
        if len == 0 {
            return &mut [];
        }
        // SAFETY: `new` checked that the memory is writable, contiguous and long enough, and the exporter keeps it in
        // place. It is a new array without another owner, or `out`, which the caller must not touch meanwhile (see the
        // stub). It overlaps no input, because `output_array` refuses that.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.buf_ptr().cast::<u8>(), len) }
    }
}

fn output_array<'py>(
    py: Python<'py>,
    needed: usize,
    given: Option<Bound<'py, PyAny>>,
    input: &PyBuffer<u8>,
) -> PyResult<OutputArray<'py>> {
    let output = OutputArray::new(py, needed, given)?;
    let (ours, theirs) = (output.buffer.buf_ptr().addr(), input.buf_ptr().addr());
    if ours < theirs + input.item_count() && theirs < ours + output.buffer.item_count() {
        return Err(PyValueError::new_err("out must not overlap data: pass memory of its own"));
    }
    Ok(output)
}

/// Returns the offsets of pieces with these lengths, as a numpy array of int64.
fn offsets_of<'py>(py: Python<'py>, lens: &[usize]) -> PyResult<Bound<'py, PyAny>> {
    let made = PyByteArray::new_with(py, (lens.len() + 1) * size_of::<i64>(), |bytes| {
        let mut end = 0;
        let (_zero, places) = bytes.split_at_mut(size_of::<i64>());
        for (place, len) in places.chunks_exact_mut(size_of::<i64>()).zip(lens) {
            end += len;
            // The pieces lie in one array, so that no end exceeds the maximum of int64.
            place.copy_from_slice(&(end as u64).to_ne_bytes());
        }
        Ok(())
    })?;
    array(py, made, "int64")
}

fn array<'py>(py: Python<'py>, bytes: Bound<'py, PyByteArray>, dtype: &str) -> PyResult<Bound<'py, PyAny>> {
    let options = PyDict::new(py);
    options.set_item("dtype", dtype)?;
    py.import("numpy")?.call_method("frombuffer", (bytes,), Some(&options))
}

/// Checks the argument `threads`. Returns 0 for `None`, which the core reads as one thread per processor.
pub(crate) fn threads(asked: Option<usize>) -> PyResult<usize> {
    match asked {
        Some(0) => Err(PyValueError::new_err("threads must be at least 1, not 0, or None for one per core")),
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
    let frames = BufferedFrames::new(data, offsets)?;
    let failed = |(place, error)| {
        let error = encrypt_error(error);
        let _ = error.value(py).call_method1("add_note", (format!("frame {place} of the batch"),));
        error
    };
    let pieces = frames.cut(py)?;
    let batch = detach_batch(py, || encryptor.plan_batch(pieces, threads)).map_err(failed)?;
    let max_len = batch.max_len();
    let mut output = output_array(py, max_len, out, &frames.data)?;
    let place = output.bytes(max_len);
    let lens = detach_batch(py, || batch.seal_into(place, threads)).map_err(failed)?;
    Ok((head(&output.array, lens.iter().sum())?, offsets_of(py, &lens)?))
}

pub(crate) fn decrypt<'py>(
    py: Python<'py>,
    decryptor: &Decryptor,
    data: &Bound<'py, PyAny>,
    offsets: Option<&Bound<'py, PyAny>>,
    rows: Option<&Bound<'py, PyAny>>,
    threads: usize,
    out: Option<Bound<'py, PyAny>>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let frames = BufferedFrames::new(data, offsets)?;
    let batch = decryptor.plan_batch(frames.chosen(py, rows)?);
    let len = batch.max_len();
    let mut output = output_array(py, len, out, &frames.data)?;
    let place = output.bytes(len);
    let opened = detach_batch(py, || batch.open_into(place, threads));
    let lens = opened.lens();
    let ok = PyByteArray::new_with(py, lens.len(), |ok| {
        ok.fill(1);
        for (index, _) in opened.failed() {
            if let Some(ok) = ok.get_mut(*index) {
                *ok = 0;
            }
        }
        Ok(())
    })?;
    Ok((head(&output.array, lens.iter().sum())?, offsets_of(py, lens)?, array(py, ok, "bool")?))
}

/// Returns a view of the first `len` bytes of an array.
fn head<'py>(array: &Bound<'py, PyAny>, len: usize) -> PyResult<Bound<'py, PyAny>> {
    let py = array.py();
    let whole = py.import("numpy")?.call_method1("asarray", (array,))?;
    whole.get_item(pyo3::types::PySlice::new(py, 0, isize::try_from(len)?, 1))
}
