//! `frameseal._native`: the classes of the core for Python, without logic of its own. It converts arguments, errors and
//! results. The docstrings for users are in `_native.pyi`.
#![allow(missing_docs)]

mod arrow;
mod batch;
mod buffers;
mod data;
mod decryptor;
mod encryptor;
mod errors;
mod info;
mod keys;
mod numbers;
mod payloads;
mod text;

use frameseal::{ApiMisuse, Codec, Profile, fork};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use buffers::Input;
use text::text;

/// The threshold in bytes from which the GIL is released. From this size a second thread doubles the throughput. At 40
/// kB a second thread gains nothing. Each frame would then wait up to 5 ms for the GIL beside a busy thread.
/// benches/latency.py measures both.
const DETACH_FROM: usize = 64 * 1024;

/// Runs `work` on `len` bytes, without the GIL from `DETACH_FROM` bytes on. No other function decides this.
fn maybe_detach<T: Send>(py: Python<'_>, len: usize, work: impl FnOnce() -> T + Send) -> T {
    if len < DETACH_FROM { work() } else { detach(py, work) }
}

/// Runs `work` without the GIL, and blocks `os.fork` meanwhile. The guard is dropped before the GIL is acquired,
/// because the forking thread holds the GIL.
///
/// Work under the GIL needs no guard, because `os.fork` holds the GIL. In a free-threaded build `os.fork` first stops
/// all other threads, and attached threads stop in Python code only.
fn detach<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(|| {
        let _inside = fork::enter();
        work()
    })
}

/// Runs a batch without the GIL. The batch blocks `os.fork` by itself, and lets it proceed between chunks of frames.
fn detach_batch<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(work)
}

fn codec(name: Option<&Bound<'_, PyAny>>) -> PyResult<Codec> {
    name.map_or(Ok(Codec::Unknown), |name| named_codec(name, ", or None"))
}

/// Returns the codec with this name. `otherwise` ends the message of the error.
fn named_codec(name: &Bound<'_, PyAny>, otherwise: &str) -> PyResult<Codec> {
    Codec::by_name(text("codec", name)?).ok_or_else(|| {
        let known: Vec<_> = Codec::ALL.iter().map(|codec| codec.name()).collect();
        PyValueError::new_err(format!("unknown codec: expected one of {}{otherwise}", known.join(", ")))
    })
}

fn profile(name: &Bound<'_, PyAny>) -> PyResult<&'static Profile> {
    Profile::by_name(text("profile", name)?).ok_or_else(|| {
        let known: Vec<_> = frameseal::profile::ALL.iter().map(|profile| profile.name).collect();
        PyValueError::new_err(format!("unknown profile: expected one of {}", known.join(", ")))
    })
}

/// Returns the metadata of a frame.
///
/// # Errors
/// `ValueError` for metadata that the profile would ignore. The core refuses it too, but not beside an empty frame.
#[inline(always)]
fn metadata<'a>(metadata: Option<&'a Input<'_, '_>>, is_authenticated: impl FnOnce() -> bool) -> PyResult<&'a [u8]> {
    match metadata.map(Input::as_slice) {
        Some(metadata) if !metadata.is_empty() && !is_authenticated() => Err(errors::api_misuse(ApiMisuse::Metadata)),
        metadata => Ok(metadata.unwrap_or_default()),
    }
}

fn stats<'py>(py: Python<'py>, entries: Vec<(&'static str, u64)>) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in entries {
        dict.set_item(name, value)?;
    }
    Ok(dict)
}

#[pymodule(gil_used = false)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::{
        data::DataCryptor, decryptor::Decryptor, decryptor::SenderBindings, encryptor::Encryptor, info::codec_info,
        info::profile_info, keys::DerivedKey, keys::KeyRing, keys::Secret, payloads::SealedPayloads,
        payloads::join_payloads, payloads::replace_frame,
    };

    #[allow(non_upper_case_globals)]
    #[pymodule_export]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// Initialises process-wide state before a fork can interrupt another thread that does so.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        drop(frameseal::fork::enter()); // registers the fork handlers
        module.add("CODECS", super::info::codecs(module.py())?)?;
        module.add("PROFILES", super::info::profiles(module.py())?)?;
        super::errors::import(module.py())
    }
}
