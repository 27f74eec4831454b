// LiveKit's e2ee worker as it is, with a tap where its frames are plaintext: before it seals, and after it has opened.
// With ?empty=N every Nth frame of sound is made empty before it comes to the worker: browsers hand over such frames.

import './e2ee.worker.mjs';

const emptyEvery = Number(new URLSearchParams(location.search).get('empty') ?? Infinity);
let sounds = 0;

const hash = async (data) =>
  [...new Uint8Array(await crypto.subtle.digest('SHA-256', data))]
    .map((byte) => byte.toString(16).padStart(2, '0')).join('');

const tap = (direction) => new TransformStream({
  async transform(frame, controller) {
    const kind = 'type' in frame ? 'video' : 'audio';
    if (direction === 'encode' && kind === 'audio' && (sounds += 1) % emptyEvery === 0) frame.data = new ArrayBuffer(0);
    self.postMessage({ kind: 'tap', data: { direction, kind, size: frame.data.byteLength, hash: await hash(frame.data) } });
    controller.enqueue(frame);
  },
});

function tapped(direction, readable, writable) {
  const stream = tap(direction);
  if (direction === 'encode') return [readable.pipeThrough(stream), writable];
  stream.readable.pipeTo(writable).catch(() => {}); // closed with the connection
  return [readable, stream.writable];
}

const { onmessage: take, onrtctransform: start } = self;

self.onmessage = ({ data: { kind, data } }) => {
  if (data.readableStream) {
    const [readableStream, writableStream] = tapped(kind, data.readableStream, data.writableStream);
    take({ data: { kind, data: { ...data, readableStream, writableStream } } });
  } else {
    take({ data: { kind, data } });
  }
};

self.onrtctransform = ({ transformer: { options, readable: from, writable: to } }) => {
  const [readable, writable] = tapped(options.kind, from, to);
  start({ transformer: { options, readable, writable } });
};
