// Streams of events over fetch: unlike EventSource it can bring a key, and say which line of the log it has.

let key = '';
try {
  key = sessionStorage.getItem('omni-key') ?? '';
} catch {
  // Storage may be refused: the key then lives as long as the page.
}
export function useKey(value) {
  key = value;
  try {
    sessionStorage.setItem('omni-key', value);
  } catch {
    // As above.
  }
}
export const hasKey = () => key !== '';
export const headers = (more = {}) => (key === '' ? more : { ...more, Authorization: `Bearer ${key}` });

// The events of an answer, {event, data, id} each; ends with the answer.
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
        const found = { event: 'message', data: '', id: undefined };
        for (const line of text.slice(0, end).split('\n')) {
          const colon = line.indexOf(':');
          if (colon <= 0) continue;  // a comment
          const value = line.slice(colon + 1).trimStart();
          if (line.startsWith('data:')) found.data += (found.data && '\n') + value;
          else found[line.slice(0, colon)] = value;
        }
        text = text.slice(end + 2);
        if (found.data !== '') yield found;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// What an answer that is none says of itself.
export async function reasonOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

const kQuiet = 5000;  // ms without a word after which what is shown is old
const kLost = 10000;  // and after which another connection is tried: this one may be dead without having ended
const kLongest = 10000;  // ms between tries

// The status, as long as the page is seen. Calls on.status(moment), on.log(lines), and on.state(state, detail)
// with 'connecting', 'live', 'stale' (detail: since when, when it is tried again, why) and 'key'.
export class Feed {
  constructor(path, on) {
    this.path = path;
    this.on = on;
    this.lastId = '';
    this.tries = 0;
    this.abort = null;
    this.heard = 0;
    this.retry = 0;
    document.addEventListener('visibilitychange', () => (document.hidden ? this.stop() : this.start()));
    if (!document.hidden) this.start();
  }

  start() {
    this.stop();
    const abort = (this.abort = new AbortController());
    const began = Date.now();
    this.watch = setInterval(() => {
      const quiet = Date.now() - Math.max(began, this.heard);
      if (quiet > kLost) {
        this.again(abort, 'the server says nothing');
        abort.abort();
      } else if (this.heard > 0 && quiet > kQuiet) {
        this.on.state('stale', { since: this.heard });
      }
    }, 1000);
    this.read(abort).then(
      () => this.again(abort, 'the server has ended the stream'),
      (error) => this.again(abort, error.message),
    );
  }
  stop() {
    clearTimeout(this.retry);
    clearInterval(this.watch);
    this.abort?.abort();
    this.abort = null;
  }

  async read(abort) {
    const more = this.lastId === '' ? {} : { 'Last-Event-ID': this.lastId };
    const response = await fetch(this.path, { headers: headers(more), signal: abort.signal, cache: 'no-store' });
    if (response.status === 401 || response.status === 403) {
      this.on.state('key', { why: await reasonOf(response) });
      this.stop();
      return;
    }
    if (!response.ok) throw new Error(await reasonOf(response));
    for await (const { event, data, id } of eventsOf(response)) {
      if (abort.signal.aborted) return;
      if (id !== undefined) this.lastId = id;
      this.tries = 0;
      this.heard = Date.now();
      if (event === 'status') {
        this.on.status(JSON.parse(data));
        this.on.state('live', {});
      } else if (event === 'log') {
        this.on.log(JSON.parse(data));
      }
    }
  }

  again(abort, why) {
    if (abort.signal.aborted || this.abort !== abort) return;
    clearInterval(this.watch);
    const wait = Math.min(kLongest, 500 * 2 ** this.tries++);
    this.on.state('stale', { since: this.heard, again: Date.now() + wait, why });
    this.retry = setTimeout(() => this.start(), wait);
  }
}
