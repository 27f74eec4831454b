// LiveKit's e2ee worker, driven as livekit-client does it, without a room and a server.

const REASONS = ['InvalidKey', 'MissingKey', 'InternalError'];
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const base64 = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)));

/** What the worker derives from: with PBKDF2 from a passphrase, with HKDF from raw bytes. */
const material = ({ passphrase, raw }) =>
  crypto.subtle.importKey(
    'raw', raw ? bytes(raw) : new TextEncoder().encode(passphrase), raw ? 'HKDF' : 'PBKDF2', false,
    ['deriveBits', 'deriveKey'],
  );

export class Encryption {
  #options;
  #identities;
  #worker;
  #waiting = new Map();

  constructor({ script, options, identities, tell }) {
    this.#options = options;
    this.#identities = identities; // {local, remote}
    this.#worker = new Worker(script, { type: 'module' });
    this.#worker.onerror = ({ message }) => tell({ event: 'fault', text: `worker: ${message}` });
    this.#worker.onmessage = ({ data: { kind, data } }) => {
      this.#waiting.get(kind)?.();
      this.#waiting.delete(kind);
      if (kind === 'error') {
        const reason = REASONS.find((name) => data.error.message.startsWith(name)) ?? data.error.message;
        tell({ event: 'failure', identity: data.participantIdentity, reason });
      } else if (kind === 'ratchetKey') {
        const { participantIdentity: identity, keyIndex, ratchetResult } = data;
        tell({ event: 'ratcheted', identity, keyIndex, chainKey: base64(ratchetResult.chainKey) });
      } else if (kind === 'tap') {
        tell({ event: 'frame', ...data });
      }
    };
  }

  /** Both identities are enabled before there is a transform: the worker would send unsealed what it does not know. */
  async start() {
    await this.#ask('initAck', 'init', { keyProviderOptions: this.#options, loglevel: 'silent' });
    for (const identity of Object.values(this.#identities)) await this.#enable(identity);
  }

  async setKey({ identity, key, keyIndex, use }) {
    const data = { key: await material(key), keyIndex, updateCurrentKeyIndex: use, isPublisher: true };
    this.#worker.postMessage({ kind: 'setKey', data: { participantIdentity: identity, ...data } });
    await this.#done();
  }

  async ratchet({ identity, keyIndex }) {
    this.#worker.postMessage({ kind: 'ratchetRequest', data: { participantIdentity: identity, keyIndex } });
    await this.#done();
  }

  seal(sender, codec, streams) {
    this.#through(sender, 'encode', this.#identities.local, codec, streams);
  }

  open(receiver, codec, streams) {
    this.#through(receiver, 'decode', this.#identities.remote, codec, streams);
  }

  #through(end, kind, participantIdentity, codec, streams) {
    const options = { participantIdentity, trackId: `${kind} ${end.track.id}`, codec, hasPacketTrailer: false };
    if (streams) {
      const { readable, writable } = end.createEncodedStreams();
      const data = { ...options, readableStream: readable, writableStream: writable };
      this.#worker.postMessage({ kind, data }, [readable, writable]);
    } else {
      end.transform = new RTCRtpScriptTransform(this.#worker, { kind, ...options });
    }
  }

  /** The worker handles messages in order and says when it has handled this one. */
  #done() {
    return this.#enable(this.#identities.local);
  }

  #enable(participantIdentity) {
    return this.#ask('enable', 'enable', { participantIdentity, enabled: true });
  }

  #ask(answer, kind, data) {
    return new Promise((resolve) => {
      this.#waiting.set(answer, resolve);
      this.#worker.postMessage({ kind, data });
    });
  }
}
