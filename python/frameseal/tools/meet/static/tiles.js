// One tile for each participant: picture, states, and the SFU's view.

const grid = document.getElementById('grid');
const template = document.getElementById('tile');
const good = (state) => state.endsWith('Success');

export class Tile {
  #element = template.content.firstElementChild.cloneNode(true);
  #video = this.#find('video');
  #states = new Map();
  #sealed = false; // true while the SFU's view is shown

  constructor({ id, name, own = false, tracks }) {
    this.name = name;
    this.own = own;
    this.tracks = tracks;
    this.#element.dataset.id = id;
    this.#element.classList.toggle('own', own);
    this.#find('h3').textContent = own ? `${name} (you)` : name;
    this.#video.muted = own;
    this.#video.setAttribute('aria-label', `Picture of ${name}`);
    grid.append(this.#element);
    this.#veil();
  }

  play(track) {
    const stream = this.#video.srcObject ?? new MediaStream();
    // A connection that replaces a lost one has tracks of its own, and a player keeps showing the track that has ended.
    stream.getTracks().filter(({ kind }) => kind === track.kind).forEach((ended) => stream.removeTrack(ended));
    stream.addTrack(track);
    this.#video.srcObject = stream;
    this.#video.play().catch(() => {}); // rejected without autoplay: the browser starts it later
  }

  /** Updates the badge of a kind, as observed by "here" or "bot". */
  setState({ by, kind, state, reason }) {
    const badge = this.#badge(by, kind);
    badge.textContent = `${kind} ${state}`;
    badge.title = reason ?? '';
    badge.className = good(state) ? 'good' : 'bad';
    void badge.offsetWidth; // restarts the animation
    badge.classList.add('changed');
    if (by === 'here' && kind === 'video') {
      this.#states.set(kind, state);
      this.#veil();
    }
  }

  showSfu(on) {
    this.#sealed = on;
    this.#find('.sfu').hidden = !on;
    this.#video.muted = this.own || on; // muted, because the SFU's view of the sound is loud noise
    if (on) this.#find('.sfu-facts').textContent = 'Waiting for the forwarder…';
  }

  setSfu({ frames, bytes, sizes, tried, pictures, parts, sealed, picture }) {
    if (!this.#sealed) return;
    const kilobytes = Math.round(((bytes.video ?? 0) + (bytes.audio ?? 0)) / 1000);
    this.#find('.sfu-facts').textContent =
      `Passed on: ${frames.video ?? 0} pictures, ${frames.audio ?? 0} pieces of sound, ${kilobytes} kB. ` +
      (pictures ? `Its decoder returned ${pictures} pictures for ${tried} frames, like this:` : `Its decoder returned no picture for ${tried} frames. Their bytes:`);
    this.#noise(sealed);
    const image = this.#find('.sfu img');
    image.hidden = !picture;
    if (picture) image.src = `data:image/jpeg;base64,${picture}`;
    const tallest = Math.max(1, ...sizes);
    const bars = sizes.map((size, n) => `M${n} 16v${(-15 * size) / tallest - 1}h.8V16z`);
    this.#find('.sizes path').setAttribute('d', bars.join(''));
    this.#find('.bytes').replaceChildren(...parts.flatMap((part) => {
      const label = document.createElement('b');
      label.textContent = `${part.name} `;
      const hex = document.createElement('span');
      hex.className = part.name.includes('clear') ? 'clear' : '';
      hex.textContent = `${part.hex}${part.end - part.start > part.hex.length / 2 ? `… (${part.end - part.start} bytes)` : ''} `;
      return [label, hex];
    }));
  }

  #noise(sealed) {
    const canvas = this.#find('.sfu canvas');
    const bytes = Uint8Array.from(atob(sealed), (character) => character.charCodeAt(0));
    canvas.height = Math.max(1, Math.floor(bytes.length / canvas.width));
    const context = canvas.getContext('2d');
    const image = context.createImageData(canvas.width, canvas.height);
    bytes.slice(0, canvas.width * canvas.height).forEach((byte, n) => image.data.set([byte, byte, byte, 255], n * 4));
    context.putImageData(image, 0, 0);
  }

  remove() {
    this.#video.srcObject = null;
    this.#element.remove();
  }

  #badge(by, kind) {
    let row = this.#find(`.badges [data-by="${by}"]`);
    if (!row) {
      row = document.createElement('li');
      row.dataset.by = by;
      row.append(Object.assign(document.createElement('strong'), { textContent: by === 'here' ? 'here' : 'at the bot' }));
      this.#find('.badges')[by === 'here' ? 'prepend' : 'append'](row);
    }
    let badge = row.querySelector(`[data-kind="${kind}"]`);
    if (!badge) {
      badge = document.createElement('span');
      badge.dataset.kind = kind;
      if (kind === 'video') row.firstElementChild.after(badge);
      else row.append(badge);
    }
    return badge;
  }

  #veil() {
    const state = this.#states.get('video');
    const shown = this.tracks.includes('video') && (this.own || (state && good(state)));
    this.#element.classList.toggle('shut', !shown);
    const veil = this.#find('.veil');
    veil.hidden = shown;
    this.#find('.why').textContent = !this.tracks.includes('video')
      ? 'No camera' : state ? `Cannot be opened here: ${state}` : 'Connecting…';
  }

  #find(selector) {
    return this.#element.querySelector(selector);
  }
}
