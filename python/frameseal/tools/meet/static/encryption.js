// Drives LiveKit's e2ee worker without its client. Every encoded frame of this page passes through the worker.

import { material } from './keys.js';

const OPTIONS = {
  sharedKey: true,
  ratchetSalt: 'LKFrameEncryptionKey',
  ratchetWindowSize: 0,
  failureTolerance: -1, // no limit: the picture returns as soon as the right key is set
  keyringSize: 16,
  keySize: 128,
};
const REASONS = ['InvalidKey', 'MissingKey', 'InternalError'];
const ACK_TIMEOUT = 10_000; // milliseconds
const FORGET_AFTER = 10_000; // milliseconds for which the previous key still opens frames, as in bot.py

export const scriptTransforms = () => typeof RTCRtpScriptTransform !== 'undefined';
export const supported = () =>
  scriptTransforms() || (typeof RTCRtpSender !== 'undefined' && 'createEncodedStreams' in RTCRtpSender.prototype);

export class Encryption {
  #worker = new Worker('/vendor/e2ee.worker.mjs', { type: 'module' });
  #waiting = new Map();
  #keys = new Map();
  #sending = null;
  #onKeys;

  /**
   * Calls `onFailure(identity, reason)` with each reason that the worker reports: InvalidKey, MissingKey, InternalError.
   * Calls `onKeys()` when `keys` has changed.
   */
  constructor(onFailure, onKeys) {
    this.#onKeys = onKeys;
    this.#worker.onmessage = ({ data: { kind, data } }) => {
      if (kind === 'error') {
        const reason = REASONS.find((name) => String(data.error?.message).startsWith(name)) ?? 'InternalError';
        onFailure(data.participantIdentity, reason);
      }
      const name = kind === 'enable' ? `enable ${data.participantIdentity}` : kind;
      this.#waiting.get(name)?.();
      this.#waiting.delete(name);
    };
  }

  async start(key) {
    await this.#ask('initAck', 'init', { keyProviderOptions: OPTIONS, loglevel: 'silent' });
    await this.setKey(key);
  }

  /** Returns every key that may open a frame here, as a Map of key id to passphrase. */
  get keys() {
    return new Map(this.#keys);
  }

  async setKey({ passphrase, keyId }) {
    const key = await material(passphrase);
    for (const old of this.#keys.entries()) setTimeout(() => this.#forget(...old), FORGET_AFTER);
    this.#sending = keyId;
    this.#keys.set(keyId, passphrase);
    this.#post('setKey', { key, keyIndex: keyId, isPublisher: true, updateCurrentKeyIndex: true });
    this.#onKeys();
  }

  /** Replaces a key by a random one, because the worker cannot remove keys. */
  async #forget(keyId, passphrase) {
    const key = await material(crypto.randomUUID());
    if (this.#sending === keyId || this.#keys.get(keyId) !== passphrase) return;
    this.#keys.delete(keyId);
    this.#post('setKey', { key, keyIndex: keyId, isPublisher: true, updateCurrentKeyIndex: false });
    this.#onKeys();
  }

  /** Turns encryption on for a participant. Await it before any transform is set: the worker passes the frames of
   * unknown participants unsealed. It processes messages in order, so that the key is set by then. */
  enable(identity) {
    return this.#ask(`enable ${identity}`, 'enable', { participantIdentity: identity, enabled: true });
  }

  seal(sender, identity, codec) {
    this.#through(sender, 'encode', identity, sender.track.id, codec);
  }

  open(receiver, identity, codec) {
    this.#through(receiver, 'decode', identity, `${identity}/${receiver.track.kind}`, codec);
  }

  forget(identity, kinds) {
    for (const kind of kinds) {
      this.#post('removeTransform', { participantIdentity: identity, trackId: `${identity}/${kind}` });
    }
  }

  stop() {
    this.#worker.terminate();
  }

  #through(end, kind, participantIdentity, trackId, codec) {
    const options = { participantIdentity, trackId, codec, hasPacketTrailer: false };
    if (scriptTransforms()) {
      end.transform = new RTCRtpScriptTransform(this.#worker, { kind, ...options });
    } else {
      const { readable, writable } = end.createEncodedStreams();
      const data = { ...options, readableStream: readable, writableStream: writable };
      this.#worker.postMessage({ kind, data }, [readable, writable]);
    }
  }

  #post(kind, data) {
    this.#worker.postMessage({ kind, data });
  }

  #ask(answer, kind, data) {
    return new Promise((resolve, reject) => {
      this.#waiting.set(answer, resolve);
      this.#post(kind, data);
      setTimeout(() => reject(new Error('the e2ee worker does not respond')), ACK_TIMEOUT);
    });
  }
}
