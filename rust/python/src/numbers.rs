//! Converts integer arguments. Errors name the argument. A number that its type cannot hold is a `ValueError` and not
//! an `OverflowError`.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBool;

fn whole<'py, T>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    let of_another_type = || match object.get_type().name() {
        Ok(found) => PyTypeError::new_err(format!("{name} must be an int, not {found}")),
        Err(error) => error,
    };
    if object.is_instance_of::<PyBool>() {
        return Err(of_another_type());
    }
    object.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(object.py()) {
            PyValueError::new_err(format!("{name}: {} is out of range", shown(object)))
        } else if error.is_instance_of::<PyTypeError>(object.py()) {
            of_another_type()
        } else {
            error
        }
    })
}

/// Defines one function per argument, for `#[pyo3(from_py_with = ...)]`.
macro_rules! arguments {
    ($($name:ident: $number:ty),* $(,)?) => {
        $(
            pub(crate) fn $name(object: &Bound<'_, PyAny>) -> PyResult<$number> {
                whole(stringify!($name), object)
            }
        )*
    };
}

arguments! {
    capacity: usize,
    context: u64,
    epoch: u64,
    epoch_bits: u8,
    failure_tolerance: i32,
    key_id: u64,
    key_index: u64,
    key_ring_size: u16,
    ratchet_bits: u8,
    ratchet_window: u16,
    retain: usize,
    sender_bits: u8,
    sender_index: u64,
    sending_key_id: u64,
}

/// The functions of arguments that may be `None`.
pub(crate) mod or_none {
    use super::whole;
    use pyo3::prelude::*;

    macro_rules! arguments {
        ($($name:ident: $number:ty),* $(,)?) => {
            $(
                pub(crate) fn $name(object: &Bound<'_, PyAny>) -> PyResult<Option<$number>> {
                    if object.is_none() { Ok(None) } else { whole(stringify!($name), object).map(Some) }
                }
            )*
        };
    }

    arguments! {
        counter: u64,
        key_id: u64,
        key_size: u16,
        replay_window: usize,
        suite: u16,
        threads: usize,
        usage_limit: u64,
    }
}

/// Returns the number for a message. A number of more than 64 bits may be a key, so the message does not show it.
fn shown(object: &Bound<'_, PyAny>) -> String {
    let small = object.extract::<i64>().map(|number| number.to_string());
    match small.or_else(|_| object.extract::<u64>().map(|number| number.to_string())) {
        Ok(digits) => format!("the number {digits}"),
        Err(_) => String::from("a number of more than 64 bits"),
    }
}
