//! Empty: the tests are in `tests` and in the core.
