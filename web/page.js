// The status page: one moment after the other, as they come from /v1/status/stream.
import { $, bytes, count, make, parameters, percent, rate, say, span } from './format.js';
import { Feed, hasKey, headers, reasonOf, useKey } from './feed.js';
import { History, Rate } from './charts.js';
import { Layers } from './layers.js';
import { showCluster, showMemory } from './cluster.js';
import { showTasks } from './tasks.js';
import { setUpTry } from './try.js';
import { Torus } from './torus.js';

const kMostEvents = 200;
const kSlow = 2000;  // ms between changes of what is long to read

const torus = new Torus($('torus'), $('torus-tip'), (text) => say('torus-said', text));
const layers = new Layers($('layers'), $('layers-said'), $('numbers-body'));
const history = new History($('tps-chart'));
const rates = { hits: new Rate(4000), asked: new Rate(4000) };
for (const name of ['answer', 'prompt', 'disk', 'stall']) rates[name] = new Rate();
let up = -1, slow = -Infinity, modelHash = '';

function restart() {
  for (const r of Object.values(rates)) r.clear();
  history.clear();
}

function showModel(moment) {
  const { model, process } = moment;
  say('model-name', model.name);
  const preset = model.preset === model.name ? '' : `${model.preset} · `;
  const active = `${parameters(model.active_parameters)} at work for a token`;
  say('model-facts', `${preset}${parameters(model.parameters)} parameters, ${active}`);
  const experts = model.lattice.reduce((product, n) => product * n, 1);
  say('torus-facts', `${model.lattice.join(' × ')} = ${experts} experts in each of ${moment.layers.length} layers`);
  const machine = `${process.threads} threads, ${process.isa}`;
  say('about', `omni ${process.version} · ${process.node} · ${machine} · up ${span(moment.up_ms)} ·`);
  if (modelHash === model.hash) return;
  modelHash = model.hash;
  document.title = `Omni · ${model.name}`;
  torus.setModel(model);
  layers.setModel(model);
}

function showFigures(moment) {
  const { sessions, tokens, cache, plan, process } = moment, ms = moment.up_ms;
  const tps = rates.answer.add(ms, tokens.answer), pps = rates.prompt.add(ms, tokens.prompt);
  say('tps', rate(tps));
  say('tps-note', `${sessions.active > 0 ? '' : 'no answers under way · '}${count(tokens.answer)} so far`);
  history.add(ms, tps);
  say('tps-scale', rate(history.draw(ms)));
  say('pps', rate(pps));
  say('pps-note', `tokens a second · ${count(tokens.prompt)} so far`);
  say('active', count(sessions.active));
  const waiting = sessions.waiting > 0 ? `${count(sessions.waiting)} waiting · ` : '';
  say('sessions-note', `${waiting}${count(sessions.places)} places`);
  showPips(sessions);
  if (cache) {
    const found = cache.hits + cache.joined, all = found + cache.misses;
    const hits = rates.hits.add(ms, found), asked = rates.asked.add(ms, all);
    say('hits', percent(asked > 0 ? hits / asked : all > 0 ? found / all : 1));
    const held = Math.min(1, cache.bytes / cache.model_bytes);
    say('hits-note', `${bytes(cache.bytes)} hold ${percent(held)} of the experts`);
    const disk = rates.disk.add(ms, cache.read_bytes), stall = rates.stall.add(ms, cache.stall_ms) / 1000;
    say('disk', Number.isFinite(disk) ? `${bytes(Math.max(0, disk))}/s` : '–');
    say('disk-note', stall > 0.005 ? `${percent(Math.min(1, stall))} of the time waited for` : 'nobody waits for it');
  } else {
    say('hits', 'all');
    say('hits-note', 'every expert is in memory');
    say('disk', 'idle');
    say('disk-note', 'nothing is read while decoding');
  }
  say('rss', bytes(process.resident_bytes));
  say('rss-note', plan ? `of ${bytes(plan.ram_bytes)} planned` : 'no budget was given');
}

function showPips({ active, waiting, places }) {
  const shown = Math.min(32, places);
  const words = Array.from({ length: shown }, (_, i) => (i < active ? 'on' : i < active + waiting ? 'waits' : 'off'));
  const pips = $('pips'), key = words.join();
  if (pips.dataset.key === key) return;
  pips.dataset.key = key;
  pips.replaceChildren(...words.map((word) => make('span', { class: word })));
}

// What would be too much for an eye or a screen reader several times a second.
function showSlowly(moment) {
  showMemory(moment);
  if ($('numbers').open) layers.fill();
  if (torus.chosen < 0 && document.activeElement !== torus.canvas)
    say('torus-said', wayInWords(torus.path, moment.sessions.active > 0));
  const now = $('tps').textContent, most = rate(history.highest);
  $('tps-chart').setAttribute('aria-label', `Tokens a second over the last two minutes: ${now} now, ${most} at most`);
}

function wayInWords(way, active) {
  if (way.length === 0) return 'No token has been decoded yet.';
  const whose = active ? 'The token just decoded' : 'The last token';
  if (way.length <= 12) return `${whose} went by experts ${way.map((stop) => stop.expert).join(' → ')}`;
  return `${whose} went by experts ${way.slice(0, 12).map((stop) => stop.expert).join(' → ')} → …`;
}

function showStatus(moment) {
  if (moment.up_ms < up) restart();
  up = moment.up_ms;
  showModel(moment);
  showFigures(moment);
  const owners = showCluster(moment);
  showTasks(moment);
  torus.tell(moment.layers, moment.experts, owners);
  layers.tell(moment.layers);
  ready = moment.process.ready ? '' : moment.process.why || 'not ready';
  if (performance.now() - slow > kSlow) {
    slow = performance.now();
    showSlowly(moment);
  }
}

let ready = '', state = '', told = {};
function showState(now = Date.now()) {
  const chip = $('state');
  const words = { connecting: 'connecting', live: 'live', key: 'a key is needed', stale: 'stale' };
  let detail = '';
  if (state === 'stale') {
    detail = told.since > 0 ? `: last heard ${span(now - told.since)} ago` : ': not reached yet';
    if (told.again > now) detail += `, tried again in ${Math.ceil((told.again - now) / 1000)}\u202fs`;
  }
  chip.title = told.why;
  chip.dataset.state = state === 'live' && ready !== '' ? 'unready' : state;
  document.body.classList.toggle('stale', state === 'stale' || state === 'key');
  say('state-text', state === 'live' && ready !== '' ? ready : words[state]);
  say('state-detail', detail);
}

function onState(next, detail) {
  state = next;
  told = { since: 0, again: 0, why: '', ...detail };
  if (next === 'key') askForKey();
  showState();
}
setInterval(() => state === 'stale' && showState(), 1000);

const kSigns = { error: '×', warning: '!', info: '·', debug: '·' };
function showEvents(lines) {
  const list = $('events');
  $('no-events')?.remove();
  const follows = list.scrollTop < 8;
  for (const line of lines) {
    const time = new Date(line.time_ms);
    const item = make('li', { 'data-level': line.level });
    item.append(
      make('span', { class: 'sign', 'aria-hidden': 'true' }, kSigns[line.level] ?? '·'),
      make('time', { dateTime: time.toISOString() }, time.toLocaleTimeString('en-GB')),
      make('span', { class: 'message' }, line.level === 'info' ? '' : `${line.level}: `, line.message),
    );
    item.title = line.event;
    list.prepend(item);
  }
  // What was there when the page came is to be read, not read out.
  setTimeout(() => list.setAttribute('aria-live', 'polite'), kSlow);
  while (list.children.length > kMostEvents) list.lastElementChild.remove();
  if (follows) list.scrollTop = 0;
}

function askForKey() {
  $('key-form').hidden = false;
  $('key').focus();
}
$('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  useKey($('key').value);
  $('key').value = '';
  $('key-form').hidden = true;
  feed.start();
});

// A link cannot show a key: what is behind it is fetched with the key, and shown in the page's place.
async function follow(link) {
  const response = await fetch(link.href, { headers: headers(), cache: 'no-store' });
  if (response.ok) location.assign(URL.createObjectURL(await response.blob()));
  else onState('key', { why: await reasonOf(response) });
}
for (const link of document.querySelectorAll('footer a')) {
  link.addEventListener('click', (event) => {
    if ((!hasKey() && state !== 'key') || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    follow(link).catch(() => location.assign(link.href));
  });
}

const kThemes = ['system', 'light', 'dark'];
const kThemeSigns = { system: '◐', light: '☀', dark: '☾' };
function showTheme() {
  const theme = document.documentElement.dataset.theme ?? 'system';
  say('theme-sign', kThemeSigns[theme]);
  $('theme').setAttribute('aria-label', `Colours: ${theme === 'system' ? 'as the system has them' : theme}`);
  $('theme').title = $('theme').getAttribute('aria-label');
  torus.wake();
  layers.draw();
}
$('theme').addEventListener('click', () => {
  const root = document.documentElement;
  const next = kThemes[(kThemes.indexOf(root.dataset.theme ?? 'system') + 1) % kThemes.length];
  if (next === 'system') delete root.dataset.theme;
  else root.dataset.theme = next;
  window.showColours();
  try {
    localStorage.setItem('omni-theme', next);
  } catch {
    // Storage may be refused: then until the page is left.
  }
  showTheme();
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', showTheme);

$('turn').addEventListener('change', () => {
  torus.turns = $('turn').checked;
  torus.wake();
});
// What is chosen by keys is read out; what passes by is not.
torus.canvas.addEventListener('focus', () => $('torus-said').setAttribute('aria-live', 'polite'));
torus.canvas.addEventListener('blur', () => $('torus-said').removeAttribute('aria-live'));
$('reset').addEventListener('click', () => torus.reset());
$('numbers').addEventListener('toggle', () => layers.fill());

showTheme();
setUpTry(askForKey);
onState('connecting', {});
const feed = new Feed('/v1/status/stream', { status: showStatus, log: showEvents, state: onState });
