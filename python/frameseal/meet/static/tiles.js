// One tile for each participant: picture, states, and what the SFU sees of them.

const grid = document.getElementById('grid');
const template = document.getElementById('tile');
const good = (state) => state.endsWith('Success');

export class Tile {
  #element = template.content.firstElementChild.cloneNode(true);
  #video = this.#find('video');
  #states = new Map();
  #sealed = false; // whether the SFU's view is shown

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
    stream.addTrack(track);
    this.#video.srcObject = stream;
    this.#video.play().catch(() => {}); // starts by itself as soon as it may
  }

  /** One badge for each kind and place that watches it: "here" or "bot". */
  setState({ by, kind, state, reason }) {
    const badges = this.#find('.badges');
    const key = `${by}/${kind}`;
    let badge = badges.querySelector(`[data-key="${key}"]`);
    if (!badge) {
      badge = document.createElement('li');
      badge.dataset.key = key;
      badges.append(badge);
      [...badges.children].sort((a, b) => b.dataset.key.localeCompare(a.dataset.key)).forEach((each) => badges.append(each));
    }
    badge.textContent = `${by === 'here' ? 'here' : 'at the bot'} · ${kind} · ${state}`;
    badge.title = reason ?? '';
    badge.className = good(state) ? 'good' : 'bad';
    void badge.offsetWidth; // lets the animation begin anew
    badge.classList.add('changed');
    if (by === 'here' && kind === 'video') {
      this.#states.set(kind, state);
      this.#veil();
    }
  }

  showSfu(on) {
    this.#sealed = on;
    this.#find('.sfu').hidden = !on;
    this.#video.muted = this.own || on; // what the SFU could hear is noise at full volume: not played
    if (on) this.#find('.sfu-facts').textContent = 'Waiting for the forwarder…';
  }

  setSfu({ frames, bytes, sizes, tried, pictures, parts, picture }) {
    if (!this.#sealed) return;
    const kilobytes = Math.round(((bytes.video ?? 0) + (bytes.audio ?? 0)) / 1000);
    this.#find('.sfu-facts').textContent =
      `The SFU passed on ${frames.video ?? 0} pictures and ${frames.audio ?? 0} pieces of sound (${kilobytes} kB). ` +
      `Its decoder was given ${tried} and made ${pictures} of them, of this kind:`;
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

  remove() {
    this.#video.srcObject = null;
    this.#element.remove();
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
