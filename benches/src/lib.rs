//! This crate is empty: the benches are under `benches/`.
