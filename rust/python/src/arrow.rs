//! Reads the data and offset buffers of Arrow's binary arrays, without a copy.
//!
//! It calls the methods of the array only, so this module does not import pyarrow.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// Returns the bytes and the offsets of an array as numpy views. Its type is binary (offsets int32) or `large_binary`
/// (int64).
///
/// # Errors
/// `TypeError` for another type or a chunked array, `ValueError` for an array with nulls.
pub(crate) fn parts<'py>(array: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let wrong =
        || PyTypeError::new_err("data must be a pyarrow array of binary or large_binary if offsets is left out");
    let kind = array.getattr("type").map_err(|_| wrong())?.str()?;
    let (dtype, width) = match kind.to_str().unwrap_or_default() {
        "binary" => ("int32", 4),
        "large_binary" => ("int64", 8),
        _ => return Err(wrong()),
    };
    let Ok(buffers) = array.call_method0("buffers") else {
        return Err(PyTypeError::new_err("data must not be a chunked array: pass its combine_chunks()"));
    };
    if array.getattr("null_count")?.is_truthy()? {
        return Err(PyValueError::new_err("data must not have nulls: a frame may be empty, but not missing"));
    }
    let numpy = array.py().import("numpy")?;
    let (offsets, data) = (buffers.get_item(1)?, buffers.get_item(2)?);
    let data = match data.is_none() {
        true => numpy.call_method1("empty", (0, "uint8"))?,
        false => numpy.call_method1("frombuffer", (data, "uint8"))?,
    };
    let (len, start): (usize, usize) = (array.len()?, array.getattr("offset")?.extract()?);
    if len == 0 {
        return Ok((data, numpy.call_method1("zeros", (1, dtype))?));
    }
    let offsets = numpy.call_method1("frombuffer", (offsets, dtype, len + 1, start * width))?;
    Ok((data, offsets))
}
