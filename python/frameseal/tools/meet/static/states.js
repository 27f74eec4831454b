// Determines the state of each track in this browser (frameseal.E2EEState). LiveKit's worker reports failures only, at
// a limited rate. Success is measured at the decoder, which only opened frames reach.

const INTERVAL = 400; // milliseconds between two measurements
const MAX_IDLE_INTERVALS = 3; // intervals with packets but no decoded frame before a failure is reported

export class States {
  #reasons = new Map();
  #tracks = new Map();
  #connections;
  #onChange;
  #timer;

  /** Calls `onChange({participant, kind, direction, state})` when a state changes. */
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

  /** Discards failures reported under the previous key. */
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
    // The jitter buffer conceals audio frames that did not open, and counts their samples.
    const good = kind === 'video' ? stats.framesDecoded ?? 0 : (stats.totalSamplesReceived ?? 0) - (stats.concealedSamples ?? 0);
    return { arrived: stats.packetsReceived, good };
  }
  return null;
}
