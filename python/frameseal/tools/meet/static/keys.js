// Derives two values from the meeting's passphrase, in this browser: the code that people compare, and the key that seals
// a rotation. The Python side is frameseal/tools/meet/rotation_message.py.

const utf8 = (text) => new TextEncoder().encode(text);
const SALT = utf8('LKFrameEncryptionKey'); // the salt of the profile livekit
const ITERATIONS = 100_000;
const CODE_VERSION = 2; // VERSION of frameseal.keys.fingerprint, which has the same derivation
const CODE_ITERATIONS = 2 ** 18;
const CODE_GROUPS = 8;
const GROUP_BYTES = 5;
const KEY_IDS = 16;
const ROTATION = 'frameseal meet rotation v1\n';
const IV_BYTES = 12;
const TRAILER_BYTES = IV_BYTES + 2;

/** Returns the key material for LiveKit's worker, which derives the frame key from it. */
export const material = (passphrase) =>
  crypto.subtle.importKey('raw', utf8(passphrase), 'PBKDF2', false, ['deriveBits', 'deriveKey']);

const frameKey = async (passphrase) =>
  crypto.subtle.deriveBits(
    { name: 'PBKDF2', hash: 'SHA-256', salt: SALT, iterations: ITERATIONS }, await material(passphrase), 128,
  );

const derive = async (algorithm, secret, bits) => {
  const key = await crypto.subtle.importKey('raw', secret, algorithm.name, false, ['deriveBits']);
  return new Uint8Array(await crypto.subtle.deriveBits(algorithm, key, bits));
};

const fingerprint = async (passphrase) => derive(
  { name: 'HKDF', hash: 'SHA-256', salt: new Uint8Array(), info: utf8('frameseal fingerprint v1') },
  await frameKey(passphrase), 256,
);

/** Returns `value` as `length` bytes, big-endian. */
const number = (value, length) => {
  const bytes = new Uint8Array(length);
  new DataView(bytes.buffer).setUint32(length - 4, value);
  return bytes;
};

/**
 * Returns the short code (frameseal.keys.fingerprint.short_code) of a meeting's shared keys, a Map of key id to passphrase:
 * equal for all who open frames with the same keys.
 */
export async function safetyCode(keys) {
  const places = [...keys].sort(([one], [other]) => one - other);
  const parts = [utf8(`frameseal keys v${CODE_VERSION}`), new Uint8Array(1), number(places.length, 4)];
  for (const [keyId, passphrase] of places) parts.push(number(keyId, 8), await fingerprint(passphrase));
  const digest = await crypto.subtle.digest('SHA-256', await new Blob(parts).arrayBuffer());
  const salt = utf8(`frameseal short code v${CODE_VERSION}`);
  const stretching = { name: 'PBKDF2', hash: 'SHA-512', salt, iterations: CODE_ITERATIONS };
  const bytes = await derive(stretching, digest, CODE_GROUPS * GROUP_BYTES * 8);
  const groups = Array.from({ length: CODE_GROUPS }, (_, n) => {
    const group = bytes.slice(n * GROUP_BYTES, (n + 1) * GROUP_BYTES);
    return String(group.reduce((sum, byte) => sum * 256 + byte, 0) % 100_000).padStart(5, '0');
  });
  return `v${CODE_VERSION} ${groups.join(' ')}`;
}

let derived = null; // the cached {passphrase, key}: a forged rotation must not cost a derivation

function rotationKey(passphrase) {
  if (derived?.passphrase !== passphrase) {
    const key = frameKey(ROTATION + passphrase).then((bytes) =>
      crypto.subtle.importKey('raw', bytes, 'AES-GCM', false, ['encrypt', 'decrypt']));
    derived = { passphrase, key };
  }
  return derived.key;
}

export const nextKeyId = (keyId) => (keyId + 1) % KEY_IDS;

/** Returns a random key in base64, sealed for the members who have the present key. */
export async function sealRotation(present) {
  const passphrase = base64(crypto.getRandomValues(new Uint8Array(16))).replaceAll('+', '-').replaceAll('/', '_').slice(0, 22);
  const text = utf8(JSON.stringify({ keyId: nextKeyId(present.keyId), passphrase }));
  const iv = crypto.getRandomValues(new Uint8Array(IV_BYTES));
  const sealed = await crypto.subtle.encrypt({ name: 'AES-GCM', iv }, await rotationKey(present.passphrase), text);
  return base64(new Uint8Array([...new Uint8Array(sealed), ...iv, IV_BYTES, 0]));
}

/** Returns the key in a rotation, or null if the rotation does not follow the present key. */
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
