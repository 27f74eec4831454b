// Holds the peer connections of the page: one to publish, and one for each other participant to receive. It answers the
// requests of the server (frameseal/tools/meet/remote.py).

import { scriptTransforms } from './encryption.js';

const GATHERING_TIMEOUT = 3_000; // milliseconds
const MAX_BITRATE = 900_000; // bits per second of the camera's video
export const PUBLISH = 'publish';

export class Connections {
  #peers = new Map();
  #encryption;
  #codec;
  #send;
  #own;
  #onTrack;

  /** Calls `onTrack(publisher, track)` for each received track, and `send(message)` to report to the server. */
  constructor({ encryption, codec, send, own, onTrack }) {
    this.#encryption = encryption;
    this.#codec = codec;
    this.#send = send;
    this.#own = own; // {id, stream}
    this.#onTrack = onTrack;
  }

  get(peer) {
    return this.#peers.get(peer);
  }

  async answer({ call, peer, method, sdp }) {
    try {
      this.#send({ type: 'reply', call, sdp: await this.#negotiate(call, peer, method, sdp) });
    } catch (error) {
      this.#send({ type: 'reply', call, error: String(error?.message ?? error) });
    }
  }

  close(peer) {
    this.#peers.get(peer)?.close();
    this.#peers.delete(peer);
  }

  closeAll() {
    for (const peer of [...this.#peers.keys()]) this.close(peer);
  }

  async #negotiate(call, peer, method, sdp) {
    if (method === 'accept') {
      await this.#peers.get(peer).setRemoteDescription({ type: 'answer', sdp });
      return '';
    }
    await this.#encryption.enable(peer === PUBLISH ? this.#own.id : peer);
    const pc = this.#make(call, peer);
    if (method === 'offer') {
      this.#publish(pc);
    } else {
      await pc.setRemoteDescription({ type: 'offer', sdp });
    }
    await pc.setLocalDescription();
    await gathered(pc);
    return pc.localDescription.sdp;
  }

  // The number of the call tells this connection from the one that it replaces, whose end may be reported later.
  #make(call, peer) {
    this.close(peer);
    const pc = new RTCPeerConnection({ iceServers: [], ...(scriptTransforms() ? {} : { encodedInsertableStreams: true }) });
    this.#peers.set(peer, pc);
    pc.onconnectionstatechange = () => this.#send({ type: 'connection', call, peer, state: pc.connectionState });
    pc.ontrack = ({ track, receiver }) => {
      this.#encryption.open(receiver, peer, track.kind === 'video' ? this.#codec : undefined);
      this.#onTrack(peer, track);
    };
    return pc;
  }

  #publish(pc) {
    for (const track of this.#own.stream.getTracks()) {
      const video = track.kind === 'video';
      const transceiver = pc.addTransceiver(track, {
        direction: 'sendonly',
        streams: [this.#own.stream],
        ...(video ? { sendEncodings: [{ maxBitrate: MAX_BITRATE }] } : {}),
      });
      this.#encryption.seal(transceiver.sender, this.#own.id, video ? this.#codec : undefined);
      // Audio uses Opus alone: LiveKit's clients cannot combine redundancy (RED) with encryption.
      const wanted = video ? [`video/${this.#codec}`, 'video/rtx'] : ['audio/opus'];
      const { codecs } = RTCRtpSender.getCapabilities(track.kind);
      transceiver.setCodecPreferences(codecs.filter(({ mimeType }) => wanted.includes(mimeType.toLowerCase())));
    }
  }
}

function gathered(pc) {
  return new Promise((resolve) => {
    const look = () => pc.iceGatheringState === 'complete' && resolve();
    pc.addEventListener('icegatheringstatechange', look);
    setTimeout(resolve, GATHERING_TIMEOUT);
    look();
  });
}
