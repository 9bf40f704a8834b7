// The status page as a person meets it. usage: node page_test.mjs URL FOLDER BROWSER, started by page_test.py,
// which does to the server what is asked of it here.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';

const [url, folder, executablePath] = process.argv.slice(2);
const { chromium } = createRequire(path.join(folder, 'x.js'))('playwright-core');
const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function server(deed) {
  console.log(deed);
  assert.equal((await answers.next()).value, 'done');
}

const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] });
const problems = [];
const kLong = 60_000;  // ms: a busy machine takes its time

async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(kLong);
  // Of the console: what this test itself provokes, and a server on a busy machine that leads no more for a moment.
  page.expected = ['Multiple readback operations', '503'];
  page.on('console', (message) => {
    if (message.type() !== 'error' && message.type() !== 'warning') return;
    if (!page.expected.some((text) => message.text().includes(text))) problems.push(`console: ${message.text()}`);
  });
  page.on('pageerror', (error) => problems.push(`error: ${error.stack}`));
  page.on('request', (request) => {
    if (!request.url().startsWith(url)) problems.push(`asks elsewhere: ${request.url()}`);
  });
  await page.goto(url);
  await page.waitForSelector('#state[data-state=live]');
  return page;
}
// An answer whose note says what is wanted. A server on a busy machine may lose its lease and lead again.
async function answered(page, ask, note = /tokens/) {
  for (let i = 0; i < 10; i++) {
    await page.waitForSelector('#state[data-state=live]');
    await ask();
    await page.waitForFunction((wanted) => {
      const said = document.getElementById('answer-note').textContent;
      return said.startsWith('No answer') || new RegExp(wanted).test(said);
    }, note.source);
    if (note.test(await text(page, '#answer-note'))) return;
  }
  assert.fail(`no answer: ${await text(page, '#answer-note')}`);
}
const go = (page) => () => page.click('#go');
const shot = (page, name) => page.screenshot({ path: path.join(folder, `${name}.png`), fullPage: true });
const text = (page, selector) => page.locator(selector).innerText();
// A canvas as a number of what is drawn and a sum of how.
const drawn = (page, selector) => page.locator(selector).evaluate((canvas) => {
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let some = 0, sum = 0;
  for (let i = 3; i < pixels.length; i += 4) {
    some += pixels[i] > 0;
    sum = (sum * 31 + pixels[i] + pixels[i - 1] * 7 + pixels[i - 3] * 3) >>> 0;
  }
  return { some, sum };
});
const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);

async function loadsDrawsAndStreams() {
  const page = await open({ colorScheme: 'light' });
  await page.waitForFunction(() => document.getElementById('torus-facts').textContent.includes('128 experts'));
  await page.waitForFunction(() => document.getElementById('torus').width > 300);
  const before = await drawn(page, '#torus');
  assert.ok(before.some > 2000, `the torus is drawn: ${before.some} pixels`);
  await page.fill('#prompt', 'The captain looked at the sea, and');
  await page.fill('#temperature', '0');
  await page.fill('#length', '60');
  await answered(page, go(page), /tokens .* a second/);
  const shown = await page.locator('#answer').evaluate((e) => e.textContent);
  const whole = await page.evaluate(async () => {
    const response = await fetch('/v1/completions', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ prompt: 'The captain looked at the sea, and', temperature: 0, max_tokens: 60 }),
    });
    return (await response.json()).choices[0].text;
  });
  assert.equal(shown, `The captain looked at the sea, and${whole}`);
  await page.waitForFunction(() => /by experts/.test(document.getElementById('torus-said').textContent));
  const after = await drawn(page, '#torus');
  assert.notEqual(after.sum, before.sum, 'the torus shows that tokens came');
  assert.ok((await drawn(page, '#layers')).some > 200, 'the strips of the layers are drawn');
  await page.click('#numbers summary');
  await page.waitForFunction(() => document.querySelectorAll('#numbers-body tr').length === 6);
  assert.match(await text(page, '#tps-note'), /so far/);
  assert.equal(await overflow(page), 0);

  // Long enough to be seen at work, and stopped.
  await page.fill('#temperature', '1');
  await page.fill('#length', '100000');
  await answered(page, async () => {
    await page.click('#go');
    await page.waitForFunction(() => {
      const ids = ['answer-note', 'active', 'answer'];
      const [said, active, shown] = ids.map((id) => document.getElementById(id).textContent);
      return said.startsWith('No answer') || (said === 'under way' && active === '1' && shown.length > 300);
    });
    await shot(page, 'light');
    if (await page.isEnabled('#stop')) await page.click('#stop');
  }, /Stopped/);
  await page.waitForFunction(() => document.getElementById('active').textContent === '0');

  // What the server refuses is said where it was asked.
  page.expected.push('429');
  const error = { message: 'all places are taken', type: 'rate_limit_error', param: null, code: null };
  await page.route('**/v1/completions', (route) => route.fulfill({ status: 429, json: { error } }));
  await page.click('#go');
  await page.waitForFunction(() => {
    return document.getElementById('answer-note').textContent === 'No answer: all places are taken';
  });
  await page.context().close();
}

async function isWorkedByKeys() {
  const page = await open();
  const order = [];
  for (let i = 0; i < 40; i++) {
    await page.keyboard.press('Tab');
    const at = await page.evaluate(() => {
      const e = document.activeElement, style = getComputedStyle(e);
      return {
        name: e.id || e.getAttribute('href') || e.tagName.toLowerCase(),
        seen: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
      };
    });
    if (at.name === 'body') break;
    assert.ok(at.seen, `${at.name}: one sees where one is`);
    order.push(at.name);
  }
  const wanted = ['#try', 'theme', 'turn', 'reset', 'torus', 'summary', 'prompt', 'temperature', 'length', 'seed', 'go',
    'answer', 'events', '/metrics', '/v1/status'];
  assert.deepEqual(order.filter((name) => wanted.includes(name)), wanted, `in this order: ${order}`);

  await answered(page, async () => {
    await page.focus('#prompt');
    await page.keyboard.press('Control+Enter');
  });
  // What was used shows with the next moment.
  await page.waitForFunction(() => /by experts/.test(document.getElementById('torus-said').textContent));
  await page.focus('#torus');
  await page.keyboard.press('.');
  await page.waitForSelector('#torus-tip:not([hidden])');
  assert.match(await text(page, '#torus-said'), /^Expert \d+ at \d, \d, \d/);
  // Where an expert is told depends on the view alone: what was used may go on cooling meanwhile.
  await page.uncheck('#turn');
  await page.focus('#torus');
  const before = await page.locator('#torus-tip').evaluate(({ style }) => [style.left, style.top].map(parseFloat));
  const moved = (far) => page.waitForFunction(([[left, top], wanted]) => {
    const { style } = document.getElementById('torus-tip');
    return (Math.hypot(parseFloat(style.left) - left, parseFloat(style.top) - top) > 0.5) === wanted;
  }, [before, far]);
  await page.keyboard.press('ArrowLeft');
  await moved(true);
  await page.keyboard.press('ArrowRight');
  await moved(false);
  await page.keyboard.press('Escape');
  await page.waitForSelector('#torus-tip', { state: 'hidden' });
  await page.context().close();
}

async function isSeenInTheDarkAndNarrow() {
  const luminance = (page) => page.evaluate(() => {
    const [r, g, b] = getComputedStyle(document.documentElement).backgroundColor.match(/\d+/g).map(Number);
    return (r + g + b) / 3;
  });
  const dark = await open({ colorScheme: 'dark' });
  assert.ok((await luminance(dark)) < 60);
  await answered(dark, go(dark));
  await shot(dark, 'dark');
  await dark.click('#theme');
  assert.ok((await luminance(dark)) > 200, 'light was chosen');
  await dark.reload();
  assert.ok((await luminance(dark)) > 200, 'and stays chosen');
  await dark.click('#theme');
  assert.ok((await luminance(dark)) < 60);
  await dark.context().close();

  for (const [width, name] of [[320, 'narrow'], [800, 'middle']]) {
    const page = await open({ viewport: { width, height: 800 }, reducedMotion: 'reduce' });
    await page.waitForFunction(() => document.getElementById('about').textContent.includes('omni'));
    await page.click('#numbers summary');
    await answered(page, go(page));
    assert.equal(await overflow(page), 0, `nothing beyond the edge at ${width} px`);
    assert.ok((await drawn(page, '#torus')).some > 500);
    await shot(page, name);
    await page.context().close();
  }
}

async function showsTasks() {
  const narrow = { viewport: { width: 320, height: 800 } };
  for (const [options, name] of [[{ colorScheme: 'dark' }, 'tasks'], [narrow, 'tasks-narrow']]) {
    const page = await open(options);
    const rows = await page.locator('#tasks-body tr').count();
    await server('hand in');
    await page.waitForFunction((before) => document.querySelectorAll('#tasks-body tr').length > before, rows);
    const first = await text(page, '#tasks-body tr:first-child');
    assert.match(first, /queued/);
    assert.match(first, /command sort/);
    assert.match(await text(page, '#tasks-facts'), /\d+ queued/);
    await page.focus('#tasks-scroll');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'tasks-scroll');
    assert.equal(await overflow(page), 0);
    await shot(page, name);
    await page.context().close();
  }
}

// Answers that a test tells word by word, in the server's place.
async function anEarlierAnswerIsNotSeenInALaterOne() {
  const page = await open();
  await page.evaluate(() => {
    const real = window.fetch;
    window.answers = [];
    window.fetch = (where, options) => {
      if (where !== '/v1/completions') return real(where, options);
      const body = new ReadableStream({ start: (controller) => window.answers.push(controller) });
      options.signal.addEventListener('abort', () => {
        window.answers[0].error(new DOMException('aborted', 'AbortError'));
      });
      return Promise.resolve(new Response(body));
    };
    window.say = (which, text) => {
      const event = { choices: [{ text, finish_reason: null }] };
      window.answers[which].enqueue(new TextEncoder().encode(`data: ${JSON.stringify(event)}\n\n`));
    };
  });
  await page.fill('#prompt', 'asked');
  // In one go: what the first answer said last is still to be written when the second begins.
  const shown = await page.evaluate(async () => {
    const soon = () => new Promise((done) => { setTimeout(done); });
    const until = async (isSo) => {
      while (!isSo()) await soon();
    };
    document.getElementById('go').click();
    await until(() => window.answers.length === 1);
    window.say(0, 'old\nold\nold');
    await soon();
    document.getElementById('go').click();
    await until(() => window.answers.length === 2);
    window.say(1, 'new\n');
    await until(() => document.getElementById('answer').textContent.includes('new'));
    return document.getElementById('answer').textContent;
  });
  assert.equal(shown, 'askednew\n');
  await page.context().close();
}

// What a stream tells that ends after each moment, and then of another model.
async function showsAnotherModelInThePlaceOfTheFirst() {
  const page = await open();
  const moment = await page.evaluate(async () => (await fetch('/v1/status')).json());
  const experts = (model) => model.lattice.reduce((product, n) => product * n, 1);
  const last = experts(moment.model) - 1;
  const first = structuredClone(moment), second = structuredClone(moment);
  for (const layer of first.layers) layer.taken = [];
  first.experts = first.experts.map((_, e) => Number(e === last));
  second.model = { ...second.model, hash: 'another', lattice: [2, 2, 2], region: [2, 2, 2] };
  second.experts = Array(8).fill(1);
  second.layers = second.layers.map(({ layer }) => ({ layer: layer + 100, last: 7, taken: [7, 3] }));
  second.regions = { requests: [5], ms: [1] };
  let told = first;
  await page.route('**/v1/status/stream', (route) => route.fulfill({
    contentType: 'text/event-stream', body: `event: status\ndata: ${JSON.stringify(told)}\n\n`,
  }));
  await page.reload();
  await page.waitForFunction(() => document.getElementById('torus-facts').textContent.includes('128 experts'));
  await page.focus('#torus');
  await page.keyboard.press('.');
  await page.waitForSelector('#torus-tip:not([hidden])');
  assert.match(await text(page, '#torus-said'), new RegExp(`^Expert ${last} at`));
  told = second;
  await page.waitForFunction(() => document.getElementById('torus-facts').textContent.includes('8 experts in'));
  await page.waitForSelector('#torus-tip', { state: 'hidden' });
  await page.waitForFunction(() => document.getElementById('torus-facts').textContent.startsWith('2 × 2 × 2'));
  await page.click('#numbers summary');
  await page.waitForFunction(() => {
    const row = document.querySelector('#numbers-body tr');
    return row && row.innerText.includes('7 (100');
  });
  assert.equal(await page.locator('#numbers-body tr').count(), second.layers.length);
  await page.context().close();
}

// As a server with keys answers.
async function asksForAKeyWhereOneIsWanted() {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.setDefaultTimeout(kLong);
  await page.route(/\/(v1\/status\/stream|metrics)$/, async (route) => {
    if (route.request().headers().authorization === 'Bearer sesame') return route.continue();
    const error = { message: 'a key is needed', type: 'invalid_request_error', param: null, code: 'invalid_api_key' };
    return route.fulfill({ status: 401, json: { error } });
  });
  await page.goto(url);
  await page.waitForSelector('#key-form:not([hidden])');
  await page.waitForSelector('#state[data-state=key]');
  await page.keyboard.type('wrong');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => !document.getElementById('key-form').hidden
    && document.activeElement.id === 'key' && document.getElementById('key').value === '');
  await page.keyboard.type('sesame');
  await page.keyboard.press('Enter');
  await page.waitForSelector('#state[data-state=live]');
  assert.ok(await page.locator('#key-form').isHidden());
  await page.click('footer a[href="/metrics"]');
  await page.waitForFunction(() => document.body.innerText.includes('omni_build_info'));
  await context.close();
}

async function saysThatItIsStaleAndComesBack() {
  const page = await open();
  page.expected.push('Failed to load resource', 'net::ERR');
  await answered(page, go(page));
  await page.waitForFunction(() => !document.getElementById('tps-note').textContent.endsWith('· 0 so far'));
  const asked = page.waitForRequest('**/v1/status/stream');
  await server('stop');
  await page.waitForSelector('#state[data-state=stale]');
  assert.match(await text(page, '#state'), /stale: last heard/);
  await shot(page, 'stale');
  // The connection has not ended, and is given up all the same.
  await page.waitForFunction(() => document.getElementById('state').title === 'the server says nothing');
  assert.match(await text(page, '#state'), /tried again in \d/);
  await asked;
  await server('go on');
  await page.waitForSelector('#state[data-state=live]');
  assert.equal(await page.getAttribute('#state', 'title'), '');
  // The next server has answered nobody.
  const stale = page.waitForSelector('#state[data-state=stale]');
  await server('restart');
  await stale;
  await page.waitForFunction(() => document.getElementById('tps-note').textContent.endsWith('· 0 so far'));
  await page.waitForSelector('#state[data-state=live]');
  await page.context().close();
}

for (const test of [loadsDrawsAndStreams, isWorkedByKeys, isSeenInTheDarkAndNarrow, anEarlierAnswerIsNotSeenInALaterOne,
  showsAnotherModelInThePlaceOfTheFirst, showsTasks, asksForAKeyWhereOneIsWanted, saysThatItIsStaleAndComesBack]) {
  await test();
  console.log(`${test.name}: as it should be`);
}
await browser.close();
answers.return?.();
process.stdin.destroy();
assert.deepEqual(problems, []);
