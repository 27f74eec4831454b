// Shows the report of the bot (frameseal.e2ee.report) as a table, and returns it as text for support.

const FAILURES = ['malformed', 'unknown_key', 'authentication_failed', 'replayed', 'sender_mismatch', 'key_exhausted'];
const good = (state) => state?.endsWith('Success');
const clock = (seconds) => seconds === null ? 'never' : new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });

export class ReportTable {
  #body;
  #report = null;

  constructor(table) {
    this.#body = table.tBodies[0];
  }

  /** Shows a report. `nameOf(id)` returns the name of a participant. */
  show(report, nameOf) {
    this.#report = report;
    this.#body.replaceChildren(...report.tracks.map((track) => row(track, nameOf(track.participant_id))));
  }

  clear() {
    this.#report = null;
    this.#body.replaceChildren();
  }

  /** Returns the report as JSON. It contains no key. */
  get text() {
    return JSON.stringify(this.#report, null, 2);
  }
}

function row(track, name) {
  const { kind, direction, codec, key_id: keyId, state, reason, diagnosis, since, last_good: last, counters } = track;
  const failed = FAILURES.reduce((sum, counter) => sum + (counters[counter] ?? 0), 0);
  const made = document.createElement('tr');
  const cells = [
    name,
    `${kind}${codec ? `, ${codec}` : ''}`,
    direction === 'send' ? 'seals' : 'opens',
    keyId ?? '',
    state ?? 'no frame yet',
    [reason, diagnosis].filter(Boolean).join(', '),
    state ? clock(since) : '',
    clock(last),
    `${counters.frames ?? 0} / ${failed}`,
  ];
  for (const text of cells) made.insertCell().textContent = text;
  made.dataset.id = track.participant_id;
  made.dataset.kind = kind;
  if (state) made.cells[4].className = good(state) ? 'good' : 'bad';
  return made;
}
