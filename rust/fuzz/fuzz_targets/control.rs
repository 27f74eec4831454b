//! A planted fault: it reads the clear bytes of a footer and forgets that the frame may be shorter.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some((front, &[high, low, 0x01, 0xE2, 0xEE, 0xFE, 0xED])) = input.split_last_chunk() {
        let clear_len = usize::from(u16::from_be_bytes([high & 0x7F, low]));
        assert!(front[..clear_len].len() == clear_len);
    }
});
