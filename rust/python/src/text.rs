//! Converts text arguments. No message quotes one, because it may be a misplaced passphrase.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

/// Returns the text that was passed as the argument `name`.
pub(crate) fn text<'a>(name: &str, object: &'a Bound<'_, PyAny>) -> PyResult<&'a str> {
    let text = object.cast::<PyString>().map_err(|_| {
        let kind = object.get_type().name().map_or_else(|_| String::from("that"), |kind| kind.to_string());
        PyTypeError::new_err(format!("{name} must be a str, not {kind}"))
    })?;
    utf8(name, text)
}

/// Returns the UTF-8 of a str.
///
/// # Errors
/// `ValueError` for a lone surrogate. The error of Python would quote the whole text.
pub(crate) fn utf8<'a>(name: &str, text: &'a Bound<'_, PyString>) -> PyResult<&'a str> {
    text.to_str().map_err(|_| {
        PyValueError::new_err(format!("{name} has a lone surrogate, so it is not text: decode it with its encoding"))
    })
}
