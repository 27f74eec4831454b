#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    frameseal_fuzz::spelling(input);
});
