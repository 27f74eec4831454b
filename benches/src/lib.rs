//! Nothing: the benches are under `benches/`.
