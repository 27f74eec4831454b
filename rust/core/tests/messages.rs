//! Tests that the message of every error names the argument, its value, and what is allowed or what to do.
#![allow(missing_docs)]

use frameseal::{ApiMisuse, ConfigError, DecryptError, EncryptError, KeyError};

fn says(error: impl std::error::Error, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing: {message}");
    }
}

#[test]
fn an_error_of_a_frame_names_the_key() {
    says(EncryptError::Malformed, &["not a frame of this codec", "pass one whole frame"]);
    says(EncryptError::UnknownKey { kid: 73 }, &["no key 73 to seal with", "set it first"]);
    says(EncryptError::KeyExhausted { kid: 73 }, &["key 73 has no nonce left", "set a new key"]);
    says(DecryptError::Malformed, &["not a sealed frame of this profile"]);
    says(DecryptError::UnknownKey { kid: 73 }, &["no key 73 to open"]);
    says(DecryptError::AuthenticationFailed { kid: 73 }, &["key 73 does not open this frame"]);
    says(DecryptError::Replayed { kid: 73 }, &["key 73 was opened before", "too old"]);
    says(DecryptError::SenderMismatch { kid: 73 }, &["key 73 belongs to another participant"]);
}

#[test]
fn an_error_of_a_key_names_the_argument_and_the_range() {
    says(KeyError::EmptyPassphrase, &["passphrase must not be empty"]);
    says(KeyError::ShortKey { given: 3, min: 16 }, &["key must have at least 16 bytes, not 3"]);
    says(KeyError::KeyLength { given: 3, min: 16, max: 16 }, &["key must have exactly 16 bytes", "not 3"]);
    says(KeyError::KeyLength { given: 3, min: 16, max: 32 }, &["key must have exactly 16 or 32 bytes", "not 3"]);
    says(KeyError::NoPassphrases, &["passphrase: ", "pass a raw key"]);
    says(KeyError::NoRatchet, &["key_id: ", "set a fresh key instead"]);
    says(KeyError::KeyIdOutOfRange { key_id: 16, key_ring_size: 16 }, &["key_id must be between 0 and 15, not 16"]);
    says(KeyError::NoSuchKey { key_id: 73 }, &["key_id: no key is set under id 73", "set it first"]);
    says(KeyError::CounterUsed { given: 3, min: Some(9) }, &["counter must be at least 9, not 3"]);
    says(KeyError::CounterUsed { given: 3, min: None }, &["counter 3: ", "set a new key"]);
    says(KeyError::Retain { given: 9, max: 4 }, &["retain must be between 0 and 4 epochs, not 9"]);
    let field = KeyError::KeyIdField { field: "sender_index", given: 9, max: 3 };
    says(field, &["sender_index must be between 0 and 3, not 9"]);
    says(KeyError::Unavailable, &["no randomness", "the key derivation failed"]);
}

#[test]
fn an_error_of_an_option_names_the_option_and_the_remedy() {
    let (profile, suite) = ("livekit", "AES_128_GCM");
    says(ConfigError::KeyRingSize { given: 0, max: 256 }, &["key_ring_size must be between 1 and 256, not 0"]);
    says(ConfigError::RatchetWindow { given: 17, max: 16 }, &["ratchet_window must be between 0 and 16 steps, not 17"]);
    let size = ConfigError::KeySize { given: 512, default: 128, profile };
    says(size, &["key_size: profile livekit has no keys of 512 bits", "for 128 bits"]);
    says(ConfigError::ReplayWindow { given: 9, max: 8 }, &["replay_window must be between 0 and 8 frames, not 9"]);
    says(ConfigError::UsageLimit { given: 0, max: 8 }, &["usage_limit must be between 1 and 8 frames, not 0"]);
    says(ConfigError::FallbackDepth { max: 2 }, &["fallback: at most 2 rings", "make the chain shorter"]);
    let mismatch = ConfigError::FallbackMismatch { own: (profile, suite), fallback: ("jitsi", "AES_256_GCM") };
    says(mismatch, &["fallback must have profile livekit and suite AES_128_GCM", "not jitsi and AES_256_GCM"]);
    says(ConfigError::ShortTrailer { given: 3, min: 8 }, &["sif_trailer must have at least 8 bytes, not 3"]);
    let codec = ConfigError::UnsupportedCodec { codec: "av1", profile };
    says(codec, &["codec: profile livekit has no layout for av1", "use another codec"]);
    says(ConfigError::UnknownSuite { given: 999 }, &["suite: ", "the number 999"]);
    says(ConfigError::DraftSuite { suite }, &["suite: AES_128_GCM", "or allow_draft"]);
    let unsupported = ConfigError::UnsupportedSuite { suite, profile };
    says(unsupported, &["suite: profile livekit does not support AES_128_GCM", "leave suite out"]);
    let option = ConfigError::UnsupportedOption { option: "shared", profile };
    says(option, &["shared: profile livekit does not support", "leave it out"]);
    says(ConfigError::NoDataPackets { profile }, &["ring: profile livekit has no data packets", "another profile"]);
    says(ConfigError::SharedRatchet, &["ratchet_bits: ", "leave ratchet_bits or shared out"]);
    says(ConfigError::RatchetBits { given: 64, max: 63 }, &["ratchet_bits must be between 0 and 63, not 64"]);
}

#[test]
fn a_misuse_names_the_argument_or_the_call_whichever_error_has_it() {
    let misuses = [
        (ApiMisuse::BufferLength, "out must have the length that the plan reports"),
        (ApiMisuse::Metadata, "metadata: only profile sframe"),
        (ApiMisuse::PacketParts, "use encrypt_packet and decrypt_packet"),
        (ApiMisuse::Counter, "counter: only a ring of profile sframe"),
        (ApiMisuse::Epoch, "epoch: only a ring of profile sframe"),
        (ApiMisuse::RatchetBits, "ratchet_bits: a ring of profile sframe"),
        (ApiMisuse::ExportNotAllowed, "allow_export: this ring exports no key material"),
    ];
    for (misuse, part) in misuses {
        says(EncryptError::Misuse(misuse), &[part]);
        says(DecryptError::Misuse(misuse), &[part]);
        says(KeyError::Misuse(misuse), &[part]);
    }
}
