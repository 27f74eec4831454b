//! `Secret`, `DerivedKey` and `KeyRing`.

use std::sync::{Arc, Mutex, PoisonError};

use frameseal::{KeyError, MlsKid, Options};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::buffers::secret_bytes;
use crate::detach;
use crate::errors::{config_error, key_error};
use crate::numbers;
use crate::text::utf8;

#[pyclass(frozen, module = "frameseal", name = "Secret")]
pub(crate) struct Secret {
    secret: frameseal::Secret,
    /// The passphrase in other Unicode normal forms, each with a description.
    forms: Vec<(String, frameseal::Secret)>,
}

#[pymethods]
impl Secret {
    #[new]
    fn new(key: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(passphrase) = key.cast::<PyString>() {
            return Ok(Self { secret: passphrase_secret(passphrase)?, forms: normal_forms(passphrase)? });
        }
        Ok(frameseal::Secret::key(&secret_bytes("key", None, key)?).map_err(key_error)?.into())
    }

    fn with_other_kdf(&self) -> Self {
        self.secret.with_other_kdf().into()
    }

    fn spellings(&self) -> Vec<(String, Self)> {
        let forms = self.forms.iter().map(|(name, secret)| (name.clone(), secret.clone().into()));
        let others = self.secret.spellings().into_iter().map(|(name, secret)| (name.into_owned(), secret.into()));
        forms.chain(others).collect()
    }

    #[getter]
    fn is_passphrase(&self) -> bool {
        self.secret.is_passphrase()
    }
}

impl From<frameseal::Secret> for Secret {
    fn from(secret: frameseal::Secret) -> Self {
        Self { secret, forms: Vec::new() }
    }
}

/// Returns a passphrase in all Unicode normal forms that differ from it, with the tables of Python.
fn normal_forms(passphrase: &Bound<'_, PyString>) -> PyResult<Vec<(String, frameseal::Secret)>> {
    let own = utf8("passphrase", passphrase)?;
    let mut forms: Vec<(String, frameseal::Secret)> = Vec::new();
    if own.is_ascii() {
        return Ok(forms);
    }
    let normalize = passphrase.py().import("unicodedata")?.getattr("normalize")?;
    for form in ["NFC", "NFD", "NFKC", "NFKD"] {
        let normal = normalize.call1((form, passphrase))?;
        let normal = normal.cast::<PyString>()?;
        let text = utf8("passphrase", normal)?;
        if text != own {
            forms.push((format!("in the Unicode form {form}"), passphrase_secret(normal)?));
        }
    }
    Ok(forms)
}

fn passphrase_secret(passphrase: &Bound<'_, PyString>) -> PyResult<frameseal::Secret> {
    frameseal::Secret::passphrase(utf8("passphrase", passphrase)?.as_bytes()).map_err(key_error)
}

/// A key that is derived, but not set yet. It is `None` after its installation.
#[pyclass(frozen, module = "frameseal", name = "DerivedKey")]
pub(crate) struct DerivedKey(Mutex<Option<frameseal::DerivedKey>>);

impl DerivedKey {
    fn new(key: frameseal::DerivedKey) -> Self {
        Self(Mutex::new(Some(key)))
    }
}

#[pymethods]
impl DerivedKey {
    fn install(&self) -> PyResult<bool> {
        let key = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        key.map(frameseal::DerivedKey::install)
            .ok_or_else(|| PyValueError::new_err("install: this key was installed before, derive it again"))
    }
}

/// A key ring. Encryptors and decryptors hold this object, so a weak reference to it shows whether any of them is left.
#[pyclass(frozen, weakref, module = "frameseal", name = "KeyRing")]
pub(crate) struct KeyRing {
    pub(crate) ring: Arc<frameseal::KeyRing>,
    failure_tolerance: i32,
}

impl KeyRing {
    /// Sets a key without the GIL, because a password KDF takes milliseconds.
    fn set(&self, py: Python<'_>, key_id: u64, secret: &frameseal::Secret) -> PyResult<()> {
        detach(py, || self.ring.set(key_id, secret)).map_err(key_error)
    }
}

#[pymethods]
impl KeyRing {
    #[new]
    #[pyo3(
        signature = (profile, *, suite=None, allow_draft=false, key_size=None, key_ring_size=16, ratchet_window=0,
            ratchet_bits=0, shared=false, failure_tolerance=-1, usage_limit=None, allow_export=false, fallback=None),
        text_signature = "(profile, *, suite=None, allow_draft=False, key_size=None, key_ring_size=16, \
            ratchet_window=0, ratchet_bits=0, shared=False, failure_tolerance=-1, usage_limit=None, \
            allow_export=False, fallback=None)"
    )]
    #[allow(clippy::too_many_arguments)] // keyword arguments with defaults
    fn new(
        profile: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = numbers::or_none::suite)] suite: Option<u16>,
        allow_draft: bool,
        #[pyo3(from_py_with = numbers::or_none::key_size)] key_size: Option<u16>,
        #[pyo3(from_py_with = numbers::key_ring_size)] key_ring_size: u16,
        #[pyo3(from_py_with = numbers::ratchet_window)] ratchet_window: u16,
        #[pyo3(from_py_with = numbers::ratchet_bits)] ratchet_bits: u8,
        shared: bool,
        #[pyo3(from_py_with = numbers::failure_tolerance)] failure_tolerance: i32,
        #[pyo3(from_py_with = numbers::or_none::usage_limit)] usage_limit: Option<u64>,
        allow_export: bool,
        fallback: Option<&Bound<'_, Self>>,
    ) -> PyResult<Self> {
        let profile = crate::profile(profile)?;
        if failure_tolerance < -1 {
            return Err(PyValueError::new_err(format!(
                "failure_tolerance must be -1 (never report) or at least 0, not {failure_tolerance}"
            )));
        }
        let usage_limit = usage_limit.unwrap_or(Options::default().usage_limit);
        let options = Options {
            suite,
            allow_draft,
            key_size,
            key_ring_size,
            ratchet_window,
            ratchet_bits,
            shared,
            usage_limit,
            allow_export,
        };
        let ring = frameseal::KeyRing::new(profile, options);
        let ring = match fallback {
            Some(fallback) => ring.and_then(|ring| ring.with_fallback(Arc::clone(&fallback.get().ring))),
            None => ring,
        };
        Ok(Self { ring: Arc::new(ring.map_err(config_error)?), failure_tolerance })
    }

    #[pyo3(signature = (passphrase, key_id=0))]
    fn set_passphrase(
        &self,
        py: Python<'_>,
        passphrase: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = numbers::key_id)] key_id: u64,
    ) -> PyResult<()> {
        let secret = match passphrase.cast::<PyString>() {
            Ok(text) => passphrase_secret(text)?,
            Err(_) => {
                frameseal::Secret::passphrase(&secret_bytes("passphrase", None, passphrase)?).map_err(key_error)?
            }
        };
        self.set(py, key_id, &secret)
    }

    #[pyo3(signature = (key, key_id=0, *, counter=None))]
    fn set_key(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = numbers::key_id)] key_id: u64,
        #[pyo3(from_py_with = numbers::or_none::counter)] counter: Option<u64>,
    ) -> PyResult<()> {
        let secret = frameseal::Secret::key(&secret_bytes("key", Some("pass a passphrase to set_passphrase"), key)?)
            .map_err(key_error)?;
        detach(py, || self.ring.set_from(key_id, &secret, counter)).map_err(key_error)
    }

    #[pyo3(signature = (epoch, exported_secret, *, epoch_bits, sender_bits, sender_index, context=0, retain=1))]
    #[allow(clippy::too_many_arguments)] // the fields of a KID
    fn set_epoch(
        &self,
        #[pyo3(from_py_with = numbers::epoch)] epoch: u64,
        exported_secret: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = numbers::epoch_bits)] epoch_bits: u8,
        #[pyo3(from_py_with = numbers::sender_bits)] sender_bits: u8,
        #[pyo3(from_py_with = numbers::sender_index)] sender_index: u64,
        #[pyo3(from_py_with = numbers::context)] context: u64,
        #[pyo3(from_py_with = numbers::retain)] retain: usize,
    ) -> PyResult<u64> {
        let bytes = secret_bytes("exported_secret", Some("pass the bytes that MLS exports"), exported_secret)?;
        let secret = frameseal::Secret::key(&bytes).map_err(|error| match error {
            KeyError::ShortKey { given, min } => {
                PyValueError::new_err(format!("exported_secret must have at least {min} bytes, not {given}"))
            }
            _ => key_error(error),
        })?;
        let kid = MlsKid { epoch, epoch_bits, sender_index, sender_bits, context };
        self.ring.set_epoch(&secret, &kid, retain).map_err(key_error)
    }

    #[pyo3(signature = (secret, key_id=0))]
    fn set_secret(
        &self,
        py: Python<'_>,
        secret: &Bound<'_, Secret>,
        #[pyo3(from_py_with = numbers::key_id)] key_id: u64,
    ) -> PyResult<()> {
        self.set(py, key_id, &secret.get().secret)
    }

    #[pyo3(signature = (secret, key_id=0))]
    fn derive_key(
        &self,
        py: Python<'_>,
        secret: &Bound<'_, Secret>,
        #[pyo3(from_py_with = numbers::key_id)] key_id: u64,
    ) -> PyResult<DerivedKey> {
        let secret = &secret.get().secret;
        detach(py, || self.ring.derive_key(key_id, secret)).map_err(key_error).map(DerivedKey::new)
    }

    #[pyo3(signature = (key_id=0))]
    fn derive_ratchet(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = numbers::key_id)] key_id: u64,
    ) -> PyResult<DerivedKey> {
        detach(py, || self.ring.derive_ratchet(key_id)).map_err(key_error).map(DerivedKey::new)
    }

    #[pyo3(signature = (key_id=0))]
    fn ratchet(&self, py: Python<'_>, #[pyo3(from_py_with = numbers::key_id)] key_id: u64) -> PyResult<u64> {
        detach(py, || self.ring.ratchet(key_id)).map_err(key_error)
    }

    fn remove_key(&self, #[pyo3(from_py_with = numbers::key_id)] key_id: u64) {
        self.ring.remove(key_id);
    }

    fn derive_ratchet_step(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = numbers::key_id)] key_id: u64,
    ) -> PyResult<bool> {
        detach(py, || self.ring.derive_ratchet_step(key_id)).map_err(key_error)
    }

    #[getter]
    fn pending_ratchets(&self) -> Vec<u64> {
        self.ring.pending_ratchets()
    }

    #[getter]
    fn ratcheted_key_id(&self) -> Option<u64> {
        self.ring.ratcheted_key_id()
    }

    #[pyo3(signature = (key_id=0))]
    fn frames_sealed(&self, #[pyo3(from_py_with = numbers::key_id)] key_id: u64) -> PyResult<u64> {
        self.ring.frames_sealed(key_id).map_err(key_error)
    }

    #[getter]
    fn usage_limit(&self) -> u64 {
        self.ring.usage_limit()
    }

    #[getter]
    fn usage_warning(&self) -> u64 {
        self.ring.usage_warning()
    }

    #[pyo3(signature = (key_id=None))]
    fn fingerprint<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = numbers::or_none::key_id)] key_id: Option<u64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.ring.fingerprint(key_id).map(|fingerprint| PyBytes::new(py, &fingerprint)).map_err(key_error)
    }

    fn fingerprints<'py>(&self, py: Python<'py>) -> PyResult<Vec<(u64, Bound<'py, PyBytes>)>> {
        let all = self.ring.fingerprints().map_err(key_error)?;
        Ok(all.into_iter().map(|(key_id, fingerprint)| (key_id, PyBytes::new(py, &fingerprint))).collect())
    }

    #[pyo3(signature = (key_id=None))]
    fn export_key<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = numbers::or_none::key_id)] key_id: Option<u64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.ring.export(key_id).map(|material| PyBytes::new(py, &material)).map_err(key_error)
    }

    #[getter]
    fn can_encrypt(&self) -> bool {
        self.ring.can_encrypt()
    }

    #[getter]
    fn generation(&self) -> u64 {
        self.ring.generation()
    }

    #[getter]
    fn key_ids(&self) -> Vec<u64> {
        self.ring.key_ids()
    }

    #[getter]
    fn get_sending_key_id(&self) -> u64 {
        self.ring.sending_key_id()
    }

    #[setter]
    fn set_sending_key_id(&self, #[pyo3(from_py_with = numbers::sending_key_id)] key_id: u64) -> PyResult<()> {
        self.ring.set_sending_key_id(key_id).map_err(key_error)
    }

    #[getter]
    fn profile(&self) -> &'static str {
        self.ring.profile().name
    }

    #[getter]
    fn suite(&self) -> u16 {
        self.ring.suite().id
    }

    #[getter]
    fn failure_tolerance(&self) -> i32 {
        self.failure_tolerance
    }

    fn __repr__(&self) -> String {
        let ring = &self.ring;
        format!(
            "KeyRing({:?}, key_ids={:?}, sending_key_id={})",
            ring.profile().name,
            ring.key_ids(),
            ring.sending_key_id()
        )
    }
}
