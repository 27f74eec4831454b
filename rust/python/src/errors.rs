//! The one match from the core's errors to the exceptions of `frameseal.exceptions`.

use frameseal::{DecryptError, EncryptError, KeyError};
use pyo3::exceptions::{PyPermissionError, PyRuntimeError, PyValueError};
use pyo3::{PyErr, import_exception};

import_exception!(frameseal.exceptions, MalformedFrame);
import_exception!(frameseal.exceptions, UnknownKey);
import_exception!(frameseal.exceptions, AuthenticationFailed);
import_exception!(frameseal.exceptions, ReplayedFrame);
import_exception!(frameseal.exceptions, KeyExhausted);

pub(crate) fn encrypt_error(error: EncryptError) -> PyErr {
    let message = error.to_string();
    match error {
        EncryptError::Malformed => MalformedFrame::new_err(message),
        EncryptError::UnknownKey { kid } => UnknownKey::new_err((message, kid)),
        EncryptError::KeyExhausted { kid } => KeyExhausted::new_err((message, kid)),
    }
}

pub(crate) fn decrypt_error(error: DecryptError) -> PyErr {
    let message = error.to_string();
    match error {
        DecryptError::Malformed => MalformedFrame::new_err(message),
        DecryptError::UnknownKey { kid } => UnknownKey::new_err((message, kid)),
        DecryptError::AuthenticationFailed { kid } => AuthenticationFailed::new_err((message, kid)),
        DecryptError::Replayed { kid } => ReplayedFrame::new_err((message, kid)),
    }
}

pub(crate) fn key_error(error: KeyError) -> PyErr {
    match error {
        KeyError::Unavailable => PyRuntimeError::new_err(error.to_string()),
        KeyError::NotExportable => PyPermissionError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}
