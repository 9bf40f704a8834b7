// The box that tries the model: what is written here goes to /v1/completions, and what comes back is shown as it
// comes.
import { $, count, make, rate, say, span } from './format.js';
import { eventsOf, headers, reasonOf } from './feed.js';

const kReasons = { length: 'as many tokens as were asked for', stop: 'the text ended', null: 'cut off' };

const kWrite = 40;  // ms between changes of the paper, however fast the tokens come

// What is written, a block a line: a long text is not laid out anew with every word.
class Paper {
  constructor(element, given) {
    this.element = element;
    this.waiting = '';
    this.timer = 0;
    // One's own: what comes late for an earlier paper is not seen on this one.
    this.sheet = make('div');
    element.replaceChildren(this.sheet);
    this.kind = 'given';
    this.newLine();
    this.put(given);
    this.kind = 'written';
    this.newSpan();
  }
  write(text) {
    this.waiting += text;
    this.timer ||= setTimeout(() => this.flush(), kWrite);
  }
  flush() {
    clearTimeout(this.timer);
    this.timer = 0;
    // Whoever has scrolled up to read stays there.
    const { element } = this;
    const follows = element.scrollTop + element.clientHeight >= element.scrollHeight - 8;
    this.put(this.waiting);
    this.waiting = '';
    if (follows) element.scrollTop = element.scrollHeight;
  }
  put(text) {
    const lines = text.split('\n');
    lines.forEach((line, i) => {
      const last = i + 1 === lines.length;
      this.end.append(last ? line : `${line}\n`);
      if (!last) this.newLine();
    });
  }
  newLine() {
    this.line = make('div', { class: 'line' });
    this.sheet.append(this.line);
    this.newSpan();
  }
  newSpan() {
    this.end = make('span', { class: this.kind });
    this.line.append(this.end);
  }
}

// `onKey`: the server wants a key.
export function setUpTry(onKey) {
  const form = $('try-form'), answer = $('answer');
  let abort = null;

  async function run() {
    abort?.abort();
    const mine = (abort = new AbortController());
    const prompt = $('prompt').value;
    const request = {
      prompt,
      max_tokens: Number($('length').value),
      temperature: Number($('temperature').value),
      stream: true,
      stream_options: { include_usage: true },
    };
    if ($('seed').value !== '') request.seed = Number($('seed').value);
    const paper = new Paper(answer, prompt);
    answer.setAttribute('aria-busy', 'true');
    $('stop').disabled = false;
    say('answer-note', 'under way');
    const began = performance.now();
    let first = 0, tokens = 0, reason = null, problem = '';
    try {
      const response = await fetch('/v1/completions', {
        method: 'POST',
        headers: headers({ 'Content-Type': 'application/json' }),
        body: JSON.stringify(request),
        signal: mine.signal,
      });
      if (!response.ok) {
        problem = await reasonOf(response);
        if (response.status === 401) onKey(problem);
      } else {
        for await (const { data } of eventsOf(response)) {
          if (data === '[DONE]') break;
          const event = JSON.parse(data);
          if (event.error) {
            problem = event.error.message;
            break;
          }
          if (event.usage) tokens = event.usage.completion_tokens;
          const choice = event.choices?.[0];
          if (!choice) continue;
          if (choice.finish_reason) reason = choice.finish_reason;
          if (choice.text) {
            first ||= performance.now();
            paper.write(choice.text);
          }
        }
      }
    } catch (error) {
      if (!mine.signal.aborted) problem = `the connection broke: ${error.message}`;
    }
    paper.flush();
    if (abort !== mine) return;
    abort = null;
    answer.setAttribute('aria-busy', 'false');
    $('stop').disabled = true;
    if (problem !== '') {
      say('answer-note', `No answer: ${problem}`);
    } else if (mine.signal.aborted) {
      say('answer-note', 'Stopped.');
    } else {
      const took = performance.now() - (first || began);
      const speed = tokens > 1 ? ` · ${rate((1000 * (tokens - 1)) / took)} a second` : '';
      const start = first ? ` · first after ${span(first - began)}` : '';
      say('answer-note', `${count(tokens)} tokens${speed}${start} · ${kReasons[reason] ?? reason}`);
    }
  }
  const stop = () => abort?.abort();

  form.addEventListener('submit', (event) => {
    event.preventDefault();
    run();
  });
  $('stop').addEventListener('click', stop);
  form.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  $('try').addEventListener('keydown', (event) => {
    if (event.key === 'Escape') stop();
  });
}
