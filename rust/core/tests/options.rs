//! Tests that options outside their ranges are refused, and that the error has the value and the range.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use frameseal::profile::{LIVEKIT, SFRAME, STREAM};
use frameseal::{Codec, ConfigError, Decryptor, KeyRing, Options, Profile};

fn refused(profile: &'static Profile, options: Options) -> ConfigError {
    KeyRing::new(profile, options).err().unwrap()
}

#[test]
fn ratchet_bits_leave_a_bit_of_the_kid_and_exclude_shared_keys() {
    let options = |ratchet_bits, shared| Options { ratchet_bits, shared, ..Options::default() };
    assert!(KeyRing::new(&SFRAME, options(63, false)).is_ok());
    assert_eq!(refused(&SFRAME, options(64, false)), ConfigError::RatchetBits { given: 64, max: 63 });
    assert_eq!(refused(&SFRAME, options(1, true)), ConfigError::SharedRatchet);
    assert!(KeyRing::new(&SFRAME, options(0, true)).is_ok());
}

#[test]
fn a_size_of_the_key_ring_or_a_limit_outside_its_range_is_refused() {
    let slots = |key_ring_size| Options { key_ring_size, ..Options::default() };
    for given in [0, 257] {
        assert_eq!(refused(&LIVEKIT, slots(given)), ConfigError::KeyRingSize { given, max: 256 });
    }
    assert!(KeyRing::new(&LIVEKIT, slots(1)).is_ok() && KeyRing::new(&LIVEKIT, slots(256)).is_ok());
    let limit = |usage_limit| Options { usage_limit, ..Options::default() };
    for given in [0, (1 << 32) + 1] {
        assert_eq!(refused(&LIVEKIT, limit(given)), ConfigError::UsageLimit { given, max: 1 << 32 });
    }
    assert!(KeyRing::new(&LIVEKIT, limit(1)).is_ok() && KeyRing::new(&LIVEKIT, limit(1 << 32)).is_ok());
    let window = |ratchet_window| Options { ratchet_window, ..Options::default() };
    assert!(KeyRing::new(&LIVEKIT, window(16)).is_ok());
    assert_eq!(refused(&LIVEKIT, window(17)), ConfigError::RatchetWindow { given: 17, max: 16 });
    let no_ratchet = ConfigError::UnsupportedOption { option: "ratchet_window", profile: "stream" };
    assert_eq!(refused(&STREAM, window(1)), no_ratchet);
}

#[test]
fn a_suite_or_a_key_size_that_a_profile_has_not_is_refused() {
    let options = |suite, key_size| Options { suite, key_size, allow_draft: true, ..Options::default() };
    let suite = frameseal::SUITES.iter().find(|suite| KeyRing::new(&LIVEKIT, options(Some(suite.id), None)).is_err());
    let name = suite.unwrap().name;
    let unsupported = ConfigError::UnsupportedSuite { suite: name, profile: "livekit" };
    for bits in [None, Some(128)] {
        assert_eq!(refused(&LIVEKIT, options(suite.map(|suite| suite.id), bits)), unsupported);
    }
    let size = |given| ConfigError::KeySize { given, default: 128, profile: "livekit" };
    assert_eq!(refused(&LIVEKIT, options(None, Some(512))), size(512));
    let ring = KeyRing::new(&LIVEKIT, options(None, Some(256))).unwrap();
    let wide = ring.suite().id;
    assert_eq!(
        refused(&LIVEKIT, options(Some(wide), Some(128))),
        ConfigError::KeySize { given: 128, default: 256, profile: "livekit" }
    );
    assert_eq!(refused(&LIVEKIT, options(Some(999), None)), ConfigError::UnknownSuite { given: 999 });
}

#[test]
fn a_fallback_of_another_profile_or_suite_is_refused() {
    let ring = |profile, key_size| KeyRing::new(profile, Options { key_size, ..Options::default() }).unwrap();
    let livekit = || ring(&LIVEKIT, Some(128));
    for other in [ring(&SFRAME, None), ring(&LIVEKIT, Some(256))] {
        let fallback = (other.profile().name, other.suite().name);
        let own = ("livekit", livekit().suite().name);
        let refused = livekit().with_fallback(Arc::new(other)).err();
        assert_eq!(refused, Some(ConfigError::FallbackMismatch { own, fallback }));
    }
    assert!(livekit().with_fallback(Arc::new(livekit())).is_ok());
}

#[test]
fn a_replay_window_beyond_its_maximum_is_refused() {
    let ring = Arc::new(KeyRing::new(&LIVEKIT, Options::default()).unwrap());
    let window = |frames| Decryptor::new(Arc::clone(&ring), Codec::Opus, Some(frames)).err();
    assert_eq!(window(1 << 16), None);
    let given = (1 << 16) + 1;
    assert_eq!(window(given), Some(ConfigError::ReplayWindow { given, max: 1 << 16 }));
}

#[test]
fn a_profile_has_passphrases_if_it_has_a_password_kdf() {
    for (name, expected) in [("livekit", true), ("sframe", true), ("nextcloud", false)] {
        assert_eq!(Profile::by_name(name).unwrap().accepts_passphrases(), expected, "{name}");
    }
}
