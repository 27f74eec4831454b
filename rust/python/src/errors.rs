//! Maps the errors of the core to the exceptions of `frameseal.exceptions`.

use frameseal::{ApiMisuse, ConfigError, DecryptError, EncryptError, KeyError};
use pyo3::exceptions::{PyPermissionError, PyRuntimeError, PyValueError};
use pyo3::{PyErr, PyResult, PyTypeInfo, Python, import_exception};

import_exception!(frameseal.exceptions, MalformedFrame);
import_exception!(frameseal.exceptions, UnknownKey);
import_exception!(frameseal.exceptions, AuthenticationFailed);
import_exception!(frameseal.exceptions, ReplayedFrame);
import_exception!(frameseal.exceptions, SenderMismatch);
import_exception!(frameseal.exceptions, KeyExhausted);

/// Imports the exceptions when the module is loaded. A lazy import could hang a forked child for ever, in the import
/// lock of another thread.
pub(crate) fn import(py: Python<'_>) -> PyResult<()> {
    py.import("frameseal.exceptions")?; // raises an error instead of a panic if the module is missing
    let _ = [
        MalformedFrame::type_object(py),
        UnknownKey::type_object(py),
        AuthenticationFailed::type_object(py),
        ReplayedFrame::type_object(py),
        SenderMismatch::type_object(py),
        KeyExhausted::type_object(py),
    ];
    Ok(())
}

pub(crate) fn encrypt_error(error: EncryptError) -> PyErr {
    let message = error.to_string();
    match error {
        EncryptError::Malformed => MalformedFrame::new_err(message),
        EncryptError::UnknownKey { kid } => UnknownKey::new_err((message, kid)),
        EncryptError::KeyExhausted { kid } => KeyExhausted::new_err((message, kid)),
        EncryptError::Misuse(misuse) => api_misuse(misuse),
    }
}

pub(crate) fn decrypt_error(error: DecryptError) -> PyErr {
    let message = error.to_string();
    match error {
        DecryptError::Malformed => MalformedFrame::new_err(message),
        DecryptError::UnknownKey { kid } => UnknownKey::new_err((message, kid)),
        DecryptError::AuthenticationFailed { kid } => AuthenticationFailed::new_err((message, kid)),
        DecryptError::Replayed { kid } => ReplayedFrame::new_err((message, kid)),
        DecryptError::SenderMismatch { kid } => SenderMismatch::new_err((message, kid)),
        DecryptError::Misuse(misuse) => api_misuse(misuse),
    }
}

pub(crate) fn key_error(error: KeyError) -> PyErr {
    match error {
        KeyError::Unavailable => PyRuntimeError::new_err(error.to_string()),
        KeyError::Misuse(misuse) => api_misuse(misuse),
        _ => PyValueError::new_err(error.to_string()),
    }
}

pub(crate) fn config_error(error: ConfigError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

pub(crate) fn api_misuse(misuse: ApiMisuse) -> PyErr {
    match misuse {
        ApiMisuse::ExportNotAllowed => PyPermissionError::new_err(misuse.to_string()),
        _ => PyValueError::new_err(misuse.to_string()),
    }
}
