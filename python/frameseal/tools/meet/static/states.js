// How each track fares in this browser, in frameseal's states. LiveKit's worker reports failures, and those thinned
// out; that frames open shows in what reaches the decoder, because nothing else can.

const INTERVAL = 400; // milliseconds
const MAX_IDLE_INTERVALS = 3; // intervals in which packets come and nothing is decoded, before that is a failure

export class States {
  #reasons = new Map();
  #tracks = new Map();
  #connections;
  #onChange;
  #timer;

  /** `onChange({participant, kind, direction, state})` is called on change only. */
  constructor(connections, onChange) {
    this.#connections = connections;
    this.#onChange = onChange;
    this.#timer = setInterval(() => this.#look(), INTERVAL);
  }

  watch(participant, peer, kind, direction) {
    this.#tracks.set(`${participant}/${kind}`, { participant, peer, kind, direction, idle: 0, last: null, state: null });
  }

  failed(participant, reason) {
    this.#reasons.set(participant, reason);
  }

  forget(participant) {
    for (const kind of ['audio', 'video']) this.#tracks.delete(`${participant}/${kind}`);
    this.#reasons.delete(participant);
  }

  /** A new key: what was reported under the old one says nothing any more. */
  reset() {
    this.#reasons.clear();
    for (const track of this.#tracks.values()) track.idle = 0;
  }

  stop() {
    clearInterval(this.#timer);
  }

  async #look() {
    for (const track of [...this.#tracks.values()]) {
      const pc = this.#connections.get(track.peer);
      if (!pc || pc.connectionState !== 'connected') continue;
      const now = measure(await pc.getStats(), track);
      const before = track.last;
      track.last = now;
      if (!now || !before) continue;
      const moved = now.arrived > before.arrived;
      const good = now.good > before.good;
      track.idle = good || !moved ? 0 : track.idle + 1;
      if (good) this.#set(track, track.direction === 'send' ? 'EncryptionSuccess' : 'DecryptionSuccess');
      else if (track.idle >= MAX_IDLE_INTERVALS) this.#set(track, this.#failure(track));
    }
  }

  #failure(track) {
    const reason = this.#reasons.get(track.participant);
    return reason ?? (track.direction === 'send' ? 'EncryptionFailed' : 'DecryptionFailed');
  }

  #set(track, state) {
    if (track.state === state) return;
    track.state = state;
    const { participant, kind, direction } = track;
    this.#onChange({ participant, kind, direction, state });
  }
}

function measure(report, { kind, direction }) {
  const wanted = direction === 'send' ? 'outbound-rtp' : 'inbound-rtp';
  for (const stats of report.values()) {
    if (stats.type !== wanted || stats.kind !== kind) continue;
    if (direction === 'send') {
      return { arrived: kind === 'video' ? stats.framesEncoded : stats.packetsSent + 1, good: stats.packetsSent };
    }
    // Sound that did not open is made up by the jitter buffer, and counted as concealed.
    const good = kind === 'video' ? stats.framesDecoded ?? 0 : (stats.totalSamplesReceived ?? 0) - (stats.concealedSamples ?? 0);
    return { arrived: stats.packetsReceived, good };
  }
  return null;
}
