// An SFU made of werift, an RTP stack in TypeScript, for test_werift.py: it takes the media of one publisher, puts
// frames together with werift's own depacketizers, and forwards the packets to one subscriber. It has no key.
//
// Over stdin come questions, a JSON object in a line each; over stdout go answers, and every whole frame as hex.

const os = require('node:os');
const readline = require('node:readline');

os.networkInterfaces = () => ({}); // the loopback address is added below, and nothing else is gathered

const { MediaStreamTrack, RTCPeerConnection, useH264, useOPUS, useVP8 } = require('werift');
const { DepacketizeCallback } = require('werift/nonstandard');

const CONFIGURATION = {
  bundlePolicy: 'max-bundle',
  iceServers: [],
  iceAdditionalHostAddresses: ['127.0.0.1'],
  codecs: { audio: [useOPUS()], video: [useVP8(), useH264()] },
};
// RFC 6184 and RFC 7741 mark a frame's last packet; an Opus packet is a frame.
const FORMATS = {
  'video/vp8': { name: 'vp8', depacketizer: 'vp8', last: (header) => header.marker },
  'video/h264': { name: 'h264', depacketizer: 'MPEG4/ISO/AVC', last: (header) => header.marker },
  'audio/opus': { name: 'opus', depacketizer: 'opus', last: () => true },
};

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
const publisher = new RTCPeerConnection(CONFIGURATION);
const subscriber = new RTCPeerConnection(CONFIGURATION);
const media = []; // of the publisher, and how each is passed on

publisher.onTrack.subscribe((track) => {
  const { receiver } = publisher.getTransceivers().find((each) => each.receiver.tracks.includes(track));
  const format = FORMATS[track.codec.mimeType.toLowerCase()];
  const depacketizer = new DepacketizeCallback(format.depacketizer, { isFinalPacketInSequence: format.last });
  depacketizer.pipe(({ frame }) => {
    if (frame) say({ frame: format.name, keyframe: frame.isKeyframe, data: frame.data.toString('hex') });
  });
  const section = { receiver, track, codec: track.codec };
  media.push(section);
  track.onReceiveRtp.subscribe((packet) => {
    if (section.outgoing) {
      const copy = packet.clone();
      copy.header.extensions = []; // they are the publisher's; the sender puts in the subscriber's
      section.outgoing.writeRtp(copy);
    }
    depacketizer.input({ rtp: packet });
  });
});

const answers = {
  async publish(sdp) {
    await publisher.setRemoteDescription({ type: 'offer', sdp });
    await publisher.setLocalDescription(await publisher.createAnswer());
    return publisher.localDescription.sdp;
  },

  async subscribe() {
    for (const section of media) {
      section.outgoing = new MediaStreamTrack({ kind: section.track.kind });
      section.transceiver = subscriber.addTransceiver(section.outgoing, { direction: 'sendonly' });
      section.transceiver.sender.onPictureLossIndication.subscribe(() => answers.keyframe());
    }
    await subscriber.setLocalDescription(await subscriber.createOffer());
    return subscriber.localDescription.sdp;
  },

  async accept(sdp) {
    await subscriber.setRemoteDescription({ type: 'answer', sdp });
    // It knows no codec preferences: what it sends is whatever the answer names first.
    for (const { transceiver, codec } of media) {
      const same = ({ mimeType }) => mimeType.toLowerCase() === codec.mimeType.toLowerCase();
      transceiver.sender.codec = transceiver.codecs.find(same);
    }
  },

  async keyframe() {
    for (const { receiver, track } of media) {
      if (track.kind === 'video' && track.ssrc) await receiver.sendRtcpPLI(track.ssrc);
    }
  },
};

readline.createInterface({ input: process.stdin }).on('line', async (line) => {
  const { number, question, sdp } = JSON.parse(line);
  try {
    say({ number, answer: (await answers[question](sdp)) ?? '' });
  } catch (error) {
    say({ number, error: String(error.stack ?? error) });
  }
}).on('close', () => process.exit(0)); // whoever asked is gone
