//! `frameseal._native`: the core's classes for Python. No logic: arguments in, one match from errors to exceptions, bytes
//! out. The docstrings that users see stand in `_native.pyi`.
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
mod text;

use frameseal::{ApiMisuse, Codec, Profile, fork};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use text::text;

/// From this size on a second thread doubles the throughput of frames; at 40 kB it adds nothing, and each frame waits for
/// the GIL to come back, 5 ms at the worst beside a busy thread (benches/latency.py measures both).
const DETACH_FROM: usize = 64 * 1024;

/// Decides whether a frame's work is done without the GIL. Nothing else does.
fn maybe_detach<T: Send>(py: Python<'_>, len: usize, work: impl FnOnce() -> T + Send) -> T {
    if len < DETACH_FROM { work() } else { detach(py, work) }
}

/// Works without the GIL, and keeps `os.fork` waiting meanwhile. The guard goes before the GIL is taken back: the thread that
/// forks has it.
///
/// What is done with the GIL needs no guard, since `os.fork` has the GIL then. In a build without one `os.fork` stops all
/// other threads first, and those that are attached stop in Python alone.
fn detach<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(|| {
        let _inside = fork::enter();
        work()
    })
}

/// Works on a batch without the GIL. It enters by itself, and lets `os.fork` pass between chunks of its frames.
fn detach_batch<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(work)
}

fn codec(name: Option<&Bound<'_, PyAny>>) -> PyResult<Codec> {
    name.map_or(Ok(Codec::Unknown), |name| named_codec(name, ", or None"))
}

/// Finds a codec by its name. `otherwise` ends the message of the error.
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

fn no_metadata() -> PyErr {
    errors::api_misuse(ApiMisuse::Metadata)
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
        info::profile_info, keys::DerivedKey, keys::KeyRing, keys::Secret,
    };

    #[allow(non_upper_case_globals)]
    #[pymodule_export]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// Does what is done once per process, before a fork could catch another thread at it.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        drop(frameseal::fork::enter()); // registers its handlers
        module.add("CODECS", super::info::codecs(module.py())?)?;
        module.add("PROFILES", super::info::profiles(module.py())?)?;
        super::errors::import(module.py())
    }
}
