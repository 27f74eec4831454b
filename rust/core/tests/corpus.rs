//! Replays the fuzz corpus (rust/fuzz) without a fuzzer. Inputs named `opens-` or `seals-` must get that far: a corpus of
//! which nothing does would prove little.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;

#[path = "../../fuzz/src/lib.rs"]
mod checks;

fn replay(target: &str, check: fn(&[u8]) -> Option<Vec<u8>>, done: &str) {
    let folder = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let inputs = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let outcomes: BTreeMap<String, bool> = inputs
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), check(&std::fs::read(path).unwrap())))
        .map(|(name, outcome)| (name, outcome.is_some()))
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
