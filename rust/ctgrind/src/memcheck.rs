//! Marks memory as secret or public, with the client requests of valgrind's tool memcheck (`memcheck.h`).
//!
//! A secret is memory that memcheck takes for uninitialised. Copies and all that is computed from it are secret too.
//! Memcheck reports a branch on such a value, its use as an address, and its way into a system call.

use std::arch::asm;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the client requests of valgrind are written for x86-64 here");

const RUNNING_ON_VALGRIND: u64 = 0x1001;
/// The first request of memcheck: `VG_USERREQ_TOOL_BASE('M', 'C')`.
const MEMCHECK: u64 = 0x4D43_0000;
const MAKE_MEM_UNDEFINED: u64 = MEMCHECK + 1;
const MAKE_MEM_DEFINED: u64 = MEMCHECK + 2;
const GET_VBITS: u64 = MEMCHECK + 8;

/// Sends a request to valgrind. Returns 0 without valgrind, where the instructions have no effect.
fn request(number: u64, arguments: [u64; 3]) -> u64 {
    let [first, second, third] = arguments;
    let request = [number, first, second, third, 0, 0];
    let mut answer = 0_u64;
    // SAFETY: The instructions leave every register as it was. Valgrind recognises them and writes its answer into the
    // register of `answer`. It reads `request`, and writes at most the memory that the callers below pass.
    unsafe {
        asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51", "xchg rbx, rbx",
            in("rax") &raw const request, inout("rdx") answer, options(nostack),
        );
    }
    answer
}

/// Returns whether the process runs under valgrind.
pub fn is_running() -> bool {
    request(RUNNING_ON_VALGRIND, [0; 3]) != 0
}

/// Returns a copy of `bytes` that is secret.
pub fn secret(bytes: &[u8]) -> Vec<u8> {
    let copy = bytes.to_vec();
    request(MAKE_MEM_UNDEFINED, [copy.as_ptr() as u64, copy.len() as u64, 0]);
    copy
}

/// Returns whether each bit of `bytes` is public.
pub fn is_public(bytes: &[u8]) -> bool {
    let mut bits = vec![0_u8; bytes.len()];
    request(GET_VBITS, [bytes.as_ptr() as u64, bits.as_mut_ptr() as u64, bytes.len() as u64]);
    bits.iter().all(|&bits| bits == 0)
}

/// Makes a result public, such as a ciphertext that is sent.
///
/// # Panics
/// If it is public already: the secret took no part in it, so the case would show nothing.
pub fn publish<B: AsMut<[u8]>>(mut result: B) -> B {
    let bytes = result.as_mut();
    assert!(!is_public(bytes), "the secret took no part in a result");
    request(MAKE_MEM_DEFINED, [bytes.as_mut_ptr() as u64, bytes.len() as u64, 0]);
    result
}

/// Makes the digest that identifies a key public, for [`frameseal::hazmat::on_release`]. Some keys are public.
pub fn release(mut digest: [u8; 32]) -> [u8; 32] {
    request(MAKE_MEM_DEFINED, [digest.as_mut_ptr() as u64, 32, 0]);
    digest
}
