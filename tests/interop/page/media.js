// What the page sends, and what it reads from what comes: the numbered, coloured pictures and the tones of calls.py.

const WIDTH = 320;
const HEIGHT = 240;
const BITS = 16; // 12 of picture number, 4 of checksum
const FRAME_RATE = 30;
const LOOK_EVERY = 30; // milliseconds
const RECORD_FOR = 800; // milliseconds
const REACH = 3; // pixels around the middle of a block

const checksum = (value) => (value ^ (value >> 4) ^ (value >> 8) ^ 0b1010) & 0xf;

/** A track of numbered pictures with a moving bar, in a CSS colour. */
export function pictures(colour, width = WIDTH, height = HEIGHT) {
  const canvas = Object.assign(document.createElement('canvas'), { width, height });
  const context = canvas.getContext('2d');
  let number = 0;
  const draw = () => {
    const value = number & 0xfff;
    const word = (value << 4) | checksum(value);
    for (let bit = 0; bit < BITS; bit += 1) {
      context.fillStyle = (word >> bit) & 1 ? 'white' : 'black';
      context.fillRect((width * bit) / BITS, 0, width / BITS, height / 4);
    }
    context.fillStyle = colour;
    context.fillRect(0, height / 4, width, height);
    context.fillStyle = '#fff4';
    context.fillRect((number * 8) % width, height / 4, width / 10, height / 4);
    number += 1;
  };
  draw();
  setInterval(draw, 1000 / FRAME_RATE);
  return canvas.captureStream(FRAME_RATE).getVideoTracks()[0];
}

/** A track of one tone: a sine, or what the browser's fake microphone gives. */
export async function tone(hertz, microphone) {
  if (microphone) {
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    return (await navigator.mediaDevices.getUserMedia({ audio })).getAudioTracks()[0];
  }
  const context = new AudioContext();
  const oscillator = new OscillatorNode(context, { frequency: hertz });
  const quarter = new GainNode(context, { gain: 0.25 });
  const end = new MediaStreamAudioDestinationNode(context, { channelCount: 1 });
  oscillator.connect(quarter).connect(end);
  oscillator.start();
  return end.stream.getAudioTracks()[0];
}

/** Play what comes, and tell what each picture shows. Returns a function that stops it. */
export function play(stream, onPicture) {
  // Chromium gives the sound of a peer connection to others only while an element plays it, too.
  const video = Object.assign(document.createElement('video'), { muted: true, autoplay: true, srcObject: stream });
  document.body.append(video);
  const canvas = Object.assign(document.createElement('canvas'), { width: WIDTH, height: HEIGHT });
  const reader = canvas.getContext('2d', { willReadFrequently: true });
  const looking = setInterval(() => {
    if (video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return;
    reader.drawImage(video, 0, 0, WIDTH, HEIGHT);
    const blocks = Array.from({ length: BITS }, (_, bit) => luma(
      mean(reader, (WIDTH * (2 * bit + 1)) / (2 * BITS) - REACH, HEIGHT / 16, 2 * REACH, HEIGHT / 8),
    ));
    onPicture({ blocks, below: mean(reader, 0, (HEIGHT * 3) / 4, WIDTH, HEIGHT / 4) });
  }, LOOK_EVERY);
  return () => {
    clearInterval(looking);
    video.remove();
  };
}

/** What is heard for a moment, as a file in base64. */
export async function recorded(track) {
  const recorder = new MediaRecorder(new MediaStream([track]));
  const pieces = [];
  recorder.ondataavailable = ({ data }) => pieces.push(data);
  const stopped = new Promise((resolve) => { recorder.onstop = resolve; });
  recorder.start();
  await new Promise((resolve) => { setTimeout(resolve, RECORD_FOR); });
  recorder.stop();
  await stopped;
  const bytes = new Uint8Array(await new Blob(pieces).arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
}

function mean(reader, left, top, width, height) {
  const { data } = reader.getImageData(left, top, width, height);
  const sums = [0, 0, 0];
  for (let index = 0; index < data.length; index += 4) {
    for (let channel = 0; channel < 3; channel += 1) sums[channel] += data[index + channel];
  }
  return sums.map((sum) => (sum * 4) / data.length);
}

/** As it is in the video: BT.601, 16 to 235. */
const luma = ([red, green, blue]) => 16 + 0.257 * red + 0.504 * green + 0.098 * blue;
