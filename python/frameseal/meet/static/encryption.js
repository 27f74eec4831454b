// LiveKit's e2ee worker, without the rest of its client: every encoded frame of this page passes through it.

import { material } from './keys.js';

const OPTIONS = {
  sharedKey: true,
  ratchetSalt: 'LKFrameEncryptionKey',
  ratchetWindowSize: 0,
  failureTolerance: -1, // a wrong key is tried again with every frame, so that the right one brings the picture back
  keyringSize: 16,
  keySize: 128,
};
const REASONS = ['InvalidKey', 'MissingKey', 'InternalError'];
const ACKNOWLEDGED_WITHIN = 10_000; // milliseconds

export const scriptTransforms = () => typeof RTCRtpScriptTransform !== 'undefined';
export const supported = () =>
  scriptTransforms() || (typeof RTCRtpSender !== 'undefined' && 'createEncodedStreams' in RTCRtpSender.prototype);

export class Encryption {
  #worker = new Worker('/vendor/e2ee.worker.mjs', { type: 'module' });
  #waiting = new Map();

  /** `onFailure(identity, reason)` is called for what the worker reports: InvalidKey, MissingKey, InternalError. */
  constructor(onFailure) {
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

  async setKey({ passphrase, keyId }) {
    this.#post('setKey', {
      key: await material(passphrase), keyIndex: keyId, isPublisher: true, updateCurrentKeyIndex: true,
    });
  }

  /** Say that this participant's media are sealed. Until this has returned, there must be no transform: the worker
   * lets through unsealed what it knows nothing about. Messages are handled in order, so the key is there by then. */
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
      setTimeout(() => reject(new Error('the e2ee worker does not answer')), ACKNOWLEDGED_WITHIN);
    });
  }
}
