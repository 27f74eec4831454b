// One end of a call, at the command of the test: worker_call.py asks over a web socket and is told what happens here.

import { Encryption } from './encryption.js';
import { pictures, play, recorded, tone } from './media.js';

const socket = new WebSocket(`ws://${location.host}/socket`);
const tell = (message) => socket.send(JSON.stringify(message));
window.onerror = (message) => tell({ event: 'fault', text: String(message) });
window.onunhandledrejection = ({ reason }) => tell({ event: 'fault', text: String(reason?.stack ?? reason) });

let encryption;
let pc;

const methods = {
  async start({ script, options, identities }) {
    encryption = new Encryption({ script, options, identities, tell });
    await encryption.start();
  },

  setKey: (key) => encryption.setKey(key),
  ratchet: (which) => encryption.ratchet(which),

  /** Offer to send and receive sound and pictures, all of them through the worker. */
  async offer({ api, codec, hertz, microphone, colour }) {
    const streams = api === 'encoded-streams';
    pc = new RTCPeerConnection({ iceServers: [], ...(streams ? { encodedInsertableStreams: true } : {}) });
    const remote = new MediaStream();
    const sound = await tone(hertz, microphone);
    for (const [track, mimeType] of [[sound, 'audio/opus'], [pictures(colour), `video/${codec}`]]) {
      const { sender, receiver } = withCodec(pc.addTransceiver(track, { direction: 'sendrecv' }), track.kind, mimeType);
      const name = track.kind === 'video' ? codec : undefined;
      encryption.seal(sender, name, streams);
      encryption.open(receiver, name, streams);
      remote.addTrack(receiver.track);
    }
    play(remote, (picture) => tell({ event: 'picture', ...picture }));
    await pc.setLocalDescription();
    await gathered(pc);
    return pc.localDescription.sdp;
  },

  accept: ({ sdp }) => pc.setRemoteDescription({ type: 'answer', sdp }),

  /** A moment of what comes. */
  listen: () => recorded(pc.getReceivers().find(({ track }) => track.kind === 'audio').track),

  /** What has come over the network, by the browser's own count, and how many pictures it could decode. */
  async arrived() {
    const inbound = [...(await pc.getStats()).values()].filter(({ type }) => type === 'inbound-rtp');
    const of = (wanted) => inbound.find(({ kind }) => kind === wanted);
    return {
      packets: { audio: of('audio')?.packetsReceived ?? 0, video: of('video')?.packetsReceived ?? 0 },
      decoded: of('video')?.framesDecoded ?? 0,
    };
  },
};

function withCodec(transceiver, kind, mimeType) {
  const { codecs } = RTCRtpReceiver.getCapabilities(kind);
  const same = (other) => other.toLowerCase() === mimeType.toLowerCase();
  transceiver.setCodecPreferences(codecs.filter((codec) => same(codec.mimeType) || codec.mimeType === 'video/rtx'));
  return transceiver;
}

function gathered(connection) {
  return new Promise((resolve) => {
    const look = () => connection.iceGatheringState === 'complete' && resolve();
    connection.addEventListener('icegatheringstatechange', look);
    look();
  });
}

socket.onmessage = async ({ data }) => {
  const { id, method, args } = JSON.parse(data);
  try {
    tell({ id, result: (await methods[method](args)) ?? null });
  } catch (error) {
    tell({ id, error: String(error?.stack ?? error) });
  }
};
