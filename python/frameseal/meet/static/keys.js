// What is made from the meeting's passphrase, all of it in this browser: the key that people compare, and the sealing
// of a rotation (frameseal/meet/rotation.py is the other half).

const utf8 = (text) => new TextEncoder().encode(text);
const SALT = utf8('LKFrameEncryptionKey'); // LiveKit's, of all keys of this profile
const ROUNDS = 100_000;
const KEY_IDS = 16;
const ROTATION = 'frameseal meet rotation v1\n';
const IV_BYTES = 12;
const TRAILER_BYTES = IV_BYTES + 2;

/** The key that LiveKit's worker wants: it derives the frame key from it by itself. */
export const material = (passphrase) =>
  crypto.subtle.importKey('raw', utf8(passphrase), 'PBKDF2', false, ['deriveBits', 'deriveKey']);

const frameKey = async (passphrase) =>
  crypto.subtle.deriveBits(
    { name: 'PBKDF2', hash: 'SHA-256', salt: SALT, iterations: ROUNDS }, await material(passphrase), 128,
  );

/** Six groups of five digits, the same for all who have the key (frameseal.fingerprint.short_code). */
export async function safetyCode(passphrase) {
  const key = await crypto.subtle.importKey('raw', await frameKey(passphrase), 'HKDF', false, ['deriveBits']);
  const parameters = { name: 'HKDF', hash: 'SHA-256', salt: new Uint8Array(), info: utf8('frameseal fingerprint v1') };
  const bytes = new Uint8Array(await crypto.subtle.deriveBits(parameters, key, 256));
  const group = (n) => bytes.slice(n * 5, n * 5 + 5).reduce((sum, byte) => sum * 256 + byte, 0) % 100_000;
  return [0, 1, 2, 3, 4, 5].map((n) => String(group(n)).padStart(5, '0')).join(' ');
}

const rotationKey = async (passphrase) =>
  crypto.subtle.importKey('raw', await frameKey(ROTATION + passphrase), 'AES-GCM', false, ['encrypt', 'decrypt']);

export const nextKeyId = (keyId) => (keyId + 1) % KEY_IDS;

/** A fresh key, sealed for those who have the present one: base64. */
export async function sealRotation(present) {
  const passphrase = base64(crypto.getRandomValues(new Uint8Array(16))).replaceAll('+', '-').replaceAll('/', '_').slice(0, 22);
  const text = utf8(JSON.stringify({ keyId: nextKeyId(present.keyId), passphrase }));
  const iv = crypto.getRandomValues(new Uint8Array(IV_BYTES));
  const sealed = await crypto.subtle.encrypt({ name: 'AES-GCM', iv }, await rotationKey(present.passphrase), text);
  return base64(new Uint8Array([...new Uint8Array(sealed), ...iv, IV_BYTES, 0]));
}

/** The key that a rotation brings, or null if it does not follow on the present one. */
export async function openRotation(present, text) {
  try {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const iv = bytes.slice(-TRAILER_BYTES, -2);
    const key = await rotationKey(present.passphrase);
    const opened = await crypto.subtle.decrypt({ name: 'AES-GCM', iv }, key, bytes.slice(0, -TRAILER_BYTES));
    const coming = JSON.parse(new TextDecoder().decode(opened));
    const follows = coming.keyId === nextKeyId(present.keyId) && typeof coming.passphrase === 'string' && coming.passphrase;
    return follows ? { passphrase: coming.passphrase, keyId: coming.keyId } : null;
  } catch {
    return null;
  }
}

const base64 = (bytes) => btoa(String.fromCharCode(...bytes));
