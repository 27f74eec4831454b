//! Runs one case under valgrind: `ctgrind CASE`. Lists all cases with `ctgrind --list`, and `run.py` runs them.
//!
//! A line of the list has the kind, the name, and how often the case branches on a verdict, such as `gcm-tag=8`.

mod cases;
mod controls;
mod memcheck;

use std::process::ExitCode;

use frameseal::hazmat;

/// Names the verdict of AES-GCM on a tag. It is public: the frame opens or does not. `run.py` knows the function.
const GCM_TAG: &str = "gcm-tag";
/// Names the verdict of a CTR suite on a tag.
const CTR_TAG: &str = "ctr-tag";
/// Names the verdict whether a key that is set again is the same key. It is public: the usage count continues or not.
const SAME_KEY: &str = "same-key";

/// An operation on secrets.
struct Case {
    name: &'static str,
    /// The verdicts on secrets that the operation reaches, and how many branches they cause.
    verdicts: &'static [(&'static str, usize)],
    run: fn(),
}

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        eprintln!("ctgrind takes the name of a case, or --list");
        return ExitCode::from(2);
    };
    let kinds = [("case", cases::ALL), ("control", controls::ALL)];
    if name == "--list" {
        for (kind, cases) in kinds {
            for Case { name, verdicts, .. } in cases {
                let verdicts: Vec<_> = verdicts.iter().map(|(verdict, count)| format!("{verdict}={count}")).collect();
                println!("{kind}\t{name}\t{}", verdicts.join(" "));
            }
        }
        return ExitCode::SUCCESS;
    }
    let Some(case) = kinds.iter().flat_map(|(_, all)| all.iter()).find(|case| case.name == name) else {
        eprintln!("there is no case {name}: see --list");
        return ExitCode::from(2);
    };
    if !memcheck::is_running() {
        eprintln!("the case shows nothing without valgrind --tool=memcheck");
        return ExitCode::from(2);
    }
    hazmat::on_release(memcheck::release);
    (case.run)();
    ExitCode::SUCCESS
}
