//! `codec_info` and `profile_info`: rows of the tables of the core.

use frameseal::{Codec, PayloadFormat};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// Returns the names of all codecs.
pub(crate) fn codecs(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
    PyTuple::new(py, Codec::ALL.iter().map(|codec| codec.name()))
}

/// Returns the names of all profiles.
pub(crate) fn profiles(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
    PyTuple::new(py, frameseal::profile::ALL.iter().map(|profile| profile.name))
}

#[pyfunction]
#[pyo3(signature = (codec, /))]
pub(crate) fn codec_info<'py>(py: Python<'py>, codec: &Bound<'_, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    if let Some(info) = crate::named_codec(codec, "")?.info() {
        dict.set_item("name", info.name)?;
        dict.set_item("kind", info.kind.name())?;
        dict.set_item("clock_rate", info.clock_rate)?;
        dict.set_item("clear_rule", info.clear_rule())?;
        dict.set_item("nal_header_len", info.nal_header_len())?;
        dict.set_item("payload_format", info.payloads.map(PayloadFormat::name))?;
    }
    Ok(dict)
}

#[pyfunction]
#[pyo3(signature = (profile, /))]
pub(crate) fn profile_info<'py>(py: Python<'py>, profile: &Bound<'_, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    let profile = crate::profile(profile)?;
    let refused = Codec::ALL.iter().filter(|codec| !profile.accepts(**codec)).map(|codec| codec.name());
    let dict = PyDict::new(py);
    dict.set_item("name", profile.name)?;
    dict.set_item("layout", profile.layout())?;
    dict.set_item("accepts_passphrases", profile.accepts_passphrases())?;
    dict.set_item("refused_codecs", PyTuple::new(py, refused.collect::<Vec<_>>())?)?;
    Ok(dict)
}
