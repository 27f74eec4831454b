//! Whole numbers. One that its type does not hold is out of range as any other is: a `ValueError`, not an `OverflowError`.

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;

/// Any whole number, for `#[pyo3(from_py_with = whole)]`.
pub(crate) fn whole<'py, T>(object: &Bound<'py, PyAny>) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    object.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(object.py()) {
            PyValueError::new_err(format!("the number {object} is out of range"))
        } else {
            error
        }
    })
}

/// The same, or None.
pub(crate) fn whole_or_none<'py, T>(object: &Bound<'py, PyAny>) -> PyResult<Option<T>>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    if object.is_none() { Ok(None) } else { whole(object).map(Some) }
}
