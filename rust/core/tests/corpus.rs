//! Replays the fuzz corpus (rust/fuzz) without a fuzzer. Inputs whose name begins with `opens-`, `seals-` or another verb
//! of their target must get that far, and all others be refused: a corpus of refused inputs alone would prove little.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

#[path = "../../fuzz/src/lib.rs"]
mod checks;

/// Serialises the tests: a program of `keyring` may simulate a fork, after which no ring of another test would seal on.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn replay<T>(target: &str, check: fn(&[u8]) -> Option<T>, done: &str) {
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

#[test]
fn frames_of_the_corpus_are_written_as_they_were_parsed_or_refused() {
    replay("wire", checks::wire, "parses-");
}

#[test]
fn clear_rules_fit_the_frames_of_the_corpus() {
    replay("codec", checks::codec, "accepts-");
}

#[test]
fn injected_frames_of_the_corpus_pass_or_are_no_blank_frames() {
    replay("injected", checks::injected, "passes-");
}

#[test]
fn keys_of_the_corpus_have_other_spellings_and_say_which() {
    replay("spelling", checks::spelling, "spells-");
}

#[test]
fn a_second_reading_of_the_corpus_finds_the_same_key_ids() {
    replay("differential", checks::differential, "reads-");
}
