// A member of a LiveKit room on livekit-client: livekit_browser.py asks over a web socket, and is told of events.

import { BaseKeyProvider, ExternalE2EEKeyProvider, Room, RoomEvent, setLogLevel, Track } from '/livekit-client/livekit-client.esm.mjs';
import { pictures, play, recorded, tone } from '/page/media.js';

const REASONS = ['InvalidKey', 'MissingKey', 'InternalError'];
const SOURCES = { audio: Track.Source.Microphone, video: Track.Source.Camera };
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const base64 = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)));

const socket = new WebSocket(`ws://${location.host}/socket`);
const tell = (message) => socket.send(JSON.stringify(message));
window.onerror = (message) => tell({ event: 'fault', text: String(message) });
window.onunhandledrejection = ({ reason }) => tell({ event: 'fault', text: String(reason?.stack ?? reason) });
setLogLevel('silent');

/** Keys with an index, shared or per participant. */
class Keys extends BaseKeyProvider {
  async set({ passphrase, raw }, identity, keyIndex) {
    const [secret, algorithm] = raw ? [bytes(raw), 'HKDF'] : [new TextEncoder().encode(passphrase), 'PBKDF2'];
    const key = await crypto.subtle.importKey('raw', secret, algorithm, false, ['deriveBits', 'deriveKey']);
    this.onSetEncryptionKey(key, identity ?? undefined, keyIndex);
  }
}

let room;
let keys;
let worker;
const shown = new Map(); // track -> a function that stops playing it
const name = (track, participant) => ({ identity: participant.identity, kind: track.kind });

const methods = {
  /** Make a room. Without *options* the keys are of LiveKit's provider for one passphrase or raw key. */
  async make({ encrypted, options }) {
    keys = options ? new Keys(options) : new ExternalE2EEKeyProvider();
    keys.on('keyRatcheted', ({ chainKey }, identity, keyIndex) =>
      tell({ event: 'ratcheted', identity, keyIndex, chainKey: base64(chainKey) }));
    worker = new Worker('/livekit-client/livekit-client.e2ee.worker.mjs', { type: 'module' });
    room = new Room(encrypted ? { encryption: { keyProvider: keys, worker } } : {});
    room
      .on(RoomEvent.EncryptionError, (error, participant) => {
        const reason = REASONS.find((each) => error.message.startsWith(each)) ?? error.message;
        tell({ event: 'failure', identity: participant?.identity ?? null, reason });
      })
      .on(RoomEvent.TrackSubscribed, (track, _, participant) => show(track, name(track, participant)))
      .on(RoomEvent.TrackUnsubscribed, (track, _, participant) => {
        shown.get(track)?.();
        shown.delete(track);
        tell({ event: 'room', name: 'ended', ...name(track, participant) });
      })
      .on(RoomEvent.TrackMuted, (publication, participant) =>
        tell({ event: 'room', name: 'muted', ...name(publication, participant) }))
      .on(RoomEvent.TrackUnmuted, (publication, participant) =>
        tell({ event: 'room', name: 'unmuted', ...name(publication, participant) }))
      .on(RoomEvent.DataReceived, (payload, participant, _, topic, encryptionType) =>
        tell({ event: 'data', identity: participant?.identity, payload: base64(payload), topic, encryptionType }));
    for (const event of ['Reconnecting', 'SignalReconnecting', 'Reconnected', 'Disconnected']) {
      room.on(RoomEvent[event], () => tell({ event: 'room', name: event.toLowerCase() }));
    }
    if (encrypted) await room.setE2EEEnabled(true);
  },

  connect: ({ url, token }) => room.connect(url, token, { rtcConfig: { iceServers: [] } }),
  leave: () => room.disconnect(),
  simulate: ({ scenario }) => room.simulateScenario(scenario),
  /** Set a key, and return when the worker has derived it. */
  async setKey({ key, identity, keyIndex }) {
    if (keys instanceof Keys) await keys.set(key, identity, keyIndex);
    else await keys.setKey(key.passphrase ?? bytes(key.raw).buffer);
    await encrypted(identity ?? room.localParticipant.identity);
  },
  ratchet: ({ identity, keyIndex }) => keys.ratchetKey(identity, keyIndex),
  send: ({ payload, topic, reliable }) => room.localParticipant.publishData(bytes(payload), { reliable, topic }),

  async publish({ kind, hertz, colour, size, ...options }) {
    const track = kind === 'audio' ? await tone(hertz) : pictures(colour, ...size);
    await room.localParticipant.publishTrack(track, { source: SOURCES[kind], ...options });
  },

  mute: ({ kind, muted }) => (muted ? ours(kind).mute() : ours(kind).unmute()),
  unpublish: ({ kind }) => room.localParticipant.unpublishTrack(ours(kind).track),

  /** A moment of the sound of a participant, or nothing if there is none. */
  async listen({ identity }) {
    const track = theirs(identity, 'audio')?.track?.mediaStreamTrack;
    return track ? recorded(track) : '';
  },

  /** By the browser's own count: the packets that have arrived of a participant, and the number of decoded pictures. */
  async arrived({ identity }) {
    const inbound = {};
    for (const kind of ['audio', 'video']) {
      const report = await theirs(identity, kind)?.track?.receiver?.getStats();
      inbound[kind] = [...(report?.values() ?? [])].find(({ type }) => type === 'inbound-rtp');
    }
    const packets = { audio: inbound.audio?.packetsReceived ?? 0, video: inbound.video?.packetsReceived ?? 0 };
    return { packets, decoded: inbound.video?.framesDecoded ?? 0 };
  },
};

const ours = (kind) => room.localParticipant.getTrackPublication(SOURCES[kind]);
const theirs = (identity, kind) => room.remoteParticipants.get(identity)?.getTrackPublication(SOURCES[kind]);

/** The worker handles messages in order. So it has derived a participant's key when it has encrypted with it. */
function encrypted(participantIdentity) {
  const uuid = crypto.randomUUID();
  return new Promise((resolve) => {
    worker.addEventListener('message', ({ data: { data } }) => data?.uuid === uuid && resolve());
    worker.postMessage({ kind: 'encryptDataRequest', data: { uuid, payload: new Uint8Array(1), participantIdentity } });
  });
}

function show(track, whose) {
  tell({ event: 'room', name: 'subscribed', ...whose });
  if (track.kind === 'audio') {
    document.body.append(track.attach());
    shown.set(track, () => track.detach().forEach((element) => element.remove()));
  } else {
    const stream = new MediaStream([track.mediaStreamTrack]);
    shown.set(track, play(stream, (picture) => tell({ event: 'picture', ...whose, ...picture })));
  }
}

socket.onmessage = async ({ data }) => {
  const { id, method, args } = JSON.parse(data);
  try {
    tell({ id, result: (await methods[method](args)) ?? null });
  } catch (error) {
    tell({ id, error: String(error?.stack ?? error) });
  }
};
