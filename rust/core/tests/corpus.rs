//! Replays the fuzz corpus (rust/fuzz) without a fuzzer. Inputs named `opens-` or `seals-` must be opened or sealed,
//! and all others refused: a corpus of refused inputs alone would prove little.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

#[path = "../../fuzz/src/lib.rs"]
mod checks;

/// Serialises the tests: a program of `keyring` may simulate a fork, after which no ring of another test would seal on.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn replay(target: &str, check: fn(&[u8]) -> Option<Vec<u8>>, done: &str) {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let inputs = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let outcomes: BTreeMap<String, bool> = inputs
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // The last printed name belongs to the input that failed.
            eprintln!("{target}/{name}");
            (name, check(&std::fs::read(path).unwrap()).is_some())
        })
        .collect();
    assert!(outcomes.values().any(|&gets_far| gets_far) && outcomes.values().any(|&gets_far| !gets_far));
    for (name, gets_far) in outcomes {
        assert_eq!(gets_far, name.starts_with(done), "{target}/{name}");
    }
}

#[test]
fn received_frames_of_the_corpus_open_or_are_errors() {
    replay("open", checks::open, "opens-");
}

#[test]
fn encoded_frames_of_the_corpus_are_sealed_or_refused() {
    replay("seal", checks::seal, "seals-");
}

#[test]
fn data_packets_of_the_corpus_open_or_are_errors() {
    replay("packet", checks::packet, "opens-");
}

#[test]
fn programs_of_the_corpus_repeat_no_nonce_and_open_nothing_twice() {
    replay("keyring", checks::keyring, "opens-");
}
