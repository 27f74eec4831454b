//! Seals with AES-128-GCM of Intel's ipsec-mb. Python loads the library and passes the addresses of two of its
//! functions, so nothing here links to it.

use std::ptr;
use std::sync::atomic::Ordering;

use crate::{CLEAR, COUNTER, KEY_BYTES, OVERHEAD, TAG, open};

type Expand = unsafe extern "C" fn(*const u8, *mut KeyData);
type SealFrame = unsafe extern "C" fn(
    *const KeyData,
    *mut Context,
    *mut u8,
    *const u8,
    u64,
    *const u8,
    *const u8,
    u64,
    *mut u8,
    u64,
);

/// Room for `struct gcm_key_data`, whose size differs between versions: 1,008 bytes in 1.3.
#[repr(C, align(64))]
struct KeyData([u8; 8_192]);

/// Room for `struct gcm_context_data`: 88 bytes in 1.3.
#[repr(C, align(64))]
struct Context([u8; 512]);

/// The expanded key, and the function that seals with it.
pub(crate) struct IpsecMb {
    key: Box<KeyData>,
    seal: SealFrame,
}

impl IpsecMb {
    /// Expands the floor's key.
    ///
    /// # Safety
    /// The addresses are those of `aes_gcm_pre_128_*` and `aes_gcm_enc_128_*`, for a processor that can run them.
    pub(crate) unsafe fn new(expand: usize, seal: usize) -> Self {
        unsafe {
            let (expand, seal) =
                (std::mem::transmute::<usize, Expand>(expand), std::mem::transmute::<usize, SealFrame>(seal));
            let mut key = Box::new(KeyData([0; 8_192]));
            expand(KEY_BYTES.as_ptr(), &raw mut *key);
            Self { key, seal }
        }
    }

    /// Seals `len` bytes at `frame` into `out`, whose capacity is `len` + OVERHEAD, as `crate::seal` does.
    pub(crate) unsafe fn seal(&self, frame: *const u8, len: usize, out: *mut u8) {
        let mut iv = [0x5a; 12];
        iv[4..].copy_from_slice(&COUNTER.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let mut context = std::mem::MaybeUninit::<Context>::uninit();
        unsafe {
            ptr::copy_nonoverlapping(frame, out, CLEAR);
            let tag = out.add(len);
            (self.seal)(
                &raw const *self.key,
                context.as_mut_ptr(),
                out.add(CLEAR),
                frame.add(CLEAR),
                (len - CLEAR) as u64,
                iv.as_ptr(),
                out,
                CLEAR as u64,
                tag,
                TAG as u64,
            );
            ptr::copy_nonoverlapping(iv.as_ptr(), tag.add(TAG), 12);
            *tag.add(TAG + 12) = 12;
            *tag.add(TAG + 13) = 0;
        }
    }

    /// Returns true if AWS-LC opens what this seals.
    pub(crate) unsafe fn opens(&self, len: usize) -> bool {
        let (frame, mut sealed, mut opened) = (vec![7_u8; len], vec![0_u8; len + OVERHEAD], vec![0_u8; len]);
        unsafe {
            self.seal(frame.as_ptr(), len, sealed.as_mut_ptr());
            open(sealed.as_ptr(), sealed.len(), opened.as_mut_ptr()) == 1 && opened == frame
        }
    }
}
