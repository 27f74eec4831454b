// The page: the lobby, the meeting, and the actions of the buttons.

import { Connections, PUBLISH } from './connections.js';
import { Encryption, supported } from './encryption.js';
import { openRotation, safetyCode, sealRotation } from './keys.js';
import { ReportTable } from './report.js';
import { States } from './states.js';
import { Tile } from './tiles.js';

const MAX_LOG_LINES = 60; // maximum number of lines in the log
const $ = (id) => document.getElementById(id);

let meeting = null;
const report = new ReportTable($('report').querySelector('table'));

class Meeting {
  #tiles = new Map();
  #right = null; // the right key, while another one is in use
  #shown = null; // identifies the latest derivation of the code
  #turn = Promise.resolve(); // serialises rotations

  constructor(key, facts, stream) {
    this.key = key;
    this.facts = facts;
    this.stream = stream;
    this.encryption = new Encryption(
      (identity, reason) => this.states?.failed(identity, reason), () => this.#showCode(),
    );
  }

  async join(name) {
    await this.encryption.start(this.key);
    this.socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/signalling`);
    await new Promise((resolve, reject) => {
      this.socket.onopen = resolve;
      this.socket.onerror = () => reject(new Error('the server does not respond'));
    });
    this.name = name;
    this.socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    this.socket.onclose = ({ reason }) => { if (meeting === this) { leave(); problem(reason || 'The connection to the server is lost. Join again.'); } };
    this.send({ type: 'join', name, tracks: this.#kinds() });
    this.#showKey();
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  async setKey(key, line) {
    await this.encryption.setKey(key);
    this.key = key;
    this.states?.reset();
    this.#showKey();
    log(line);
    // A decoder that has missed frames needs a keyframe.
    for (const id of this.#tiles.keys()) this.send({ type: 'keyframe', participant: id });
  }

  tryPassphrase(passphrase, line) {
    this.#right ??= this.key;
    return this.setKey({ ...this.key, passphrase }, line);
  }

  restoreKey() {
    const key = this.#right ?? this.key;
    this.#right = null;
    return this.setKey(key, 'You restored the right key.');
  }

  get hasOtherKey() {
    return this.#right !== null && this.#right.passphrase !== this.key.passphrase;
  }

  async rotate() {
    this.send({ type: 'rotate', sealed: await sealRotation(this.key) });
  }

  showSfu(on) {
    this.send({ type: 'watch', on });
    for (const tile of this.#tiles.values()) tile.showSfu(on);
    this.watching = on;
  }

  stop() {
    this.states?.stop();
    this.connections?.closeAll();
    this.socket.onclose = null;
    this.socket.close();
    this.encryption.stop();
    this.stream.getTracks().forEach((track) => track.stop());
    for (const tile of this.#tiles.values()) tile.remove();
  }

  #kinds() {
    return ['audio', 'video'].filter((kind) => this.stream.getTracks().some((track) => track.kind === kind));
  }

  #receive(message) {
    const { type, participant } = message;
    if (type === 'welcome') this.#welcome(message);
    else if (type === 'joined') { this.#add(participant); log(`${participant.name} joined.`); }
    else if (type === 'left') this.#remove(message.id);
    else if (type === 'call') this.connections.answer(message);
    else if (type === 'hang-up') this.connections.close(message.peer);
    else if (type === 'state') this.#state(message);
    else if (type === 'sfu') this.#tiles.get(participant)?.setSfu(message);
    else if (type === 'rotate') this.#turn = this.#turn.then(() => this.#follow(message));
    else if (type === 'rotated') log(message.keyId === null ? 'The bot cannot open the new key and keeps the previous one.' : `The bot uses the new key ${message.keyId}.`);
    else if (type === 'report') report.show(message.report, (id) => this.#tiles.get(id)?.name ?? id);
    else if (type === 'recording') { $('recorded').hidden = false; log('The meeting is being recorded.'); }
    else if (type === 'problem') problem(message.message);
  }

  #welcome({ id, participants }) {
    this.id = id;
    this.connections = new Connections({
      encryption: this.encryption,
      codec: this.facts.codec,
      send: (message) => this.send(message),
      own: { id, stream: this.stream },
      onTrack: (publisher, track) => {
        this.#tiles.get(publisher)?.play(track);
        this.states.watch(publisher, publisher, track.kind, 'receive');
      },
    });
    this.states = new States(this.connections, (change) => this.#state({ by: 'here', ...change }));
    participants.forEach((each) => this.#add(each));
    this.#add({ id, name: this.name, own: true, tracks: this.#kinds() });
    for (const track of this.stream.getTracks()) {
      if (track.kind === 'video') this.#tiles.get(id).play(track);
      this.states.watch(id, PUBLISH, track.kind, 'send');
    }
  }

  #add(participant) {
    const tile = new Tile(participant);
    this.#tiles.set(participant.id, tile);
    if (this.watching) tile.showSfu(true);
    this.#summary();
  }

  #remove(id) {
    const tile = this.#tiles.get(id);
    if (!tile) return;
    log(`${tile.name} left.`);
    tile.remove();
    this.#tiles.delete(id);
    this.states.forget(id);
    this.encryption.forget(id, tile.tracks);
    this.connections.close(id);
    this.#summary();
  }

  #state(change) {
    const tile = this.#tiles.get(change.participant);
    if (!tile) return;
    tile.setState(change);
    log(`${change.by === 'here' ? 'Here' : 'At the bot'}: ${change.kind} of ${tile.name}: ${change.state}`);
  }

  async #follow({ from, sealed }) {
    const who = this.#tiles.get(from)?.own ? 'You' : this.#tiles.get(from)?.name ?? 'Somebody';
    const coming = await openRotation(this.key, sealed);
    if (!coming) {
      log(`${who} rotated the key, and the passphrase here does not open the new one.`);
      return;
    }
    this.#right = null;
    await this.setKey(coming, `${who} rotated the key.`);
    const fragment = new URLSearchParams({ key: coming.passphrase, id: coming.keyId });
    history.replaceState(null, '', `#${fragment}`); // a copied or reloaded link must hold the new key
  }

  #showKey() {
    $('key').value = this.key.passphrase;
    $('key-id').textContent = this.key.keyId;
    $('right').disabled = !this.hasOtherKey;
  }

  /** Clears the code until the code of the current keys is derived. */
  async #showCode() {
    const turn = this.#shown = {};
    $('code').textContent = '';
    const code = await safetyCode(this.encryption.keys);
    if (meeting === this && turn === this.#shown) $('code').textContent = code;
  }

  #summary() {
    const others = this.#tiles.size - 1;
    $('summary').textContent = `${others === 1 ? '1 other' : `${others} others`} in the room`;
  }
}

/** Returns the key in the fragment of the URL. An absent passphrase is empty, and an invalid key id is 0. */
function fromFragment() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const keyId = Number(fragment.get('id') ?? 0);
  return { passphrase: fragment.get('key') ?? '', keyId: Number.isInteger(keyId) && keyId >= 0 && keyId < 16 ? keyId : 0 };
}

async function join(event) {
  event.preventDefault();
  const listening = event.submitter?.value === 'listen';
  const buttons = document.querySelectorAll('#lobby button');
  buttons.forEach((button) => { button.disabled = true; });
  problem('');
  let stream = new MediaStream();
  try {
    if (!supported()) throw new Error('this browser cannot encrypt encoded media: use a current Chrome, Edge, Firefox or Safari');
    if (!listening) stream = await camera();
    const facts = await (await fetch('/facts')).json();
    meeting = new Meeting({ ...fromFragment(), passphrase: $('lobby-key').value }, facts, stream);
    await meeting.join($('name').value.trim() || 'Guest');
    $('lobby').hidden = true;
    $('meeting').hidden = false;
    for (const [id, kind] of [['microphone', 'audio'], ['camera', 'video']]) {
      $(id).disabled = !stream.getTracks().some((track) => track.kind === kind);
      $(id).setAttribute('aria-pressed', String(!$(id).disabled));
    }
    $('watch').setAttribute('aria-pressed', 'false');
    $('watch').hidden = !facts.forwardersView;
    $('microphone').focus();
  } catch (error) {
    stream.getTracks().forEach((track) => track.stop());
    meeting?.encryption.stop();
    meeting = null;
    problem(`Could not join: ${error.message}`);
  }
  buttons.forEach((button) => { button.disabled = false; });
}

async function camera() {
  if (!navigator.mediaDevices) throw new Error('browsers allow the camera over HTTPS and on 127.0.0.1 only: start with --lan for other machines');
  const audio = { echoCancellation: true, noiseSuppression: true };
  const video = { width: { ideal: 640 }, height: { ideal: 360 }, frameRate: { ideal: 24 } };
  for (const wanted of [{ audio, video }, { audio }, { video }]) {
    try {
      return await navigator.mediaDevices.getUserMedia(wanted);
    } catch (error) {
      if (error.name !== 'NotFoundError') throw new Error('camera and microphone were refused: allow them, or only watch and listen');
    }
  }
  throw new Error('there is neither camera nor microphone: only watch and listen');
}

function leave() {
  meeting?.stop();
  meeting = null;
  $('meeting').hidden = true;
  $('lobby').hidden = false;
  $('summary').textContent = '';
  report.clear();
  $('lobby-key').value = fromFragment().passphrase;
  $('name').focus();
}

function log(line) {
  const item = document.createElement('li');
  item.textContent = `${new Date().toLocaleTimeString([], { hour12: false })} ${line}`;
  $('log').prepend(item);
  while ($('log').children.length > MAX_LOG_LINES) $('log').lastElementChild.remove();
}

function problem(text) {
  $('problem').textContent = text;
  $('problem').hidden = !text;
}

function toggle(button) {
  const on = button.getAttribute('aria-pressed') !== 'true';
  button.setAttribute('aria-pressed', String(on));
  return on;
}

$('lobby').addEventListener('submit', join);
$('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  meeting.tryPassphrase($('key').value, 'You typed another passphrase.');
});
$('wrong').addEventListener('click', () => meeting.tryPassphrase(`not ${meeting.key.passphrase}`, 'You set a wrong passphrase.'));
$('right').addEventListener('click', () => meeting.restoreKey());
$('rotate').addEventListener('click', () => meeting.rotate());
$('leave').addEventListener('click', leave);
$('copy-report').addEventListener('click', async ({ currentTarget: button }) => {
  try {
    await navigator.clipboard.writeText(report.text);
  } catch {
    problem('The browser does not allow access to the clipboard.');
    return;
  }
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = 'Copy for support'; }, 2_000);
});
$('watch').addEventListener('click', ({ currentTarget }) => meeting.showSfu(toggle(currentTarget)));
for (const [id, kind] of [['microphone', 'audio'], ['camera', 'video']]) {
  $(id).addEventListener('click', ({ currentTarget }) => {
    const on = toggle(currentTarget);
    meeting.stream.getTracks().filter((track) => track.kind === kind).forEach((track) => { track.enabled = on; });
  });
}
for (const button of document.querySelectorAll('[data-shows]')) {
  button.addEventListener('click', () => { $(button.dataset.shows).type = toggle(button) ? 'text' : 'password'; });
}
window.addEventListener('hashchange', () => { if (!meeting) $('lobby-key').value = fromFragment().passphrase; });
$('lobby-key').value = fromFragment().passphrase;
$('name').focus();
// Whoever joins must know before.
fetch('/facts').then((response) => response.json()).then(({ recorded }) => { $('recorded').hidden = !recorded; });
