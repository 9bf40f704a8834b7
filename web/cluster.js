// Nodes, regions, and where memory goes.
import { $, bytes, count, make, percent, say, span } from './format.js';
import { Rate } from './charts.js';

const kForms = ['●', '■', '◆', '▲'];  // as torus.js draws them
const kStates = {
  up: '● up',
  suspect: '◐ slow',
  down: '○ down',
  gone: '○ gone',
  draining: '◌ draining',
  drained: '◌ drained',
};
export const formOf = (number) => (number < 1 ? kForms[0] : kForms[1 + ((number - 1) % 3)]);
const kSlow = 2000, kNew = 6000;  // ms
const letter = (number) => String.fromCharCode(65 + (number % 26));

const links = new Map();  // by node: rates of what goes out and comes in
function linkRates(node, ms) {
  if (!links.has(node.node)) links.set(node.node, [new Rate(3000), new Rate(3000)]);
  const [out, in_] = links.get(node.node);
  return [out.add(ms, node.sent_bytes), in_.add(ms, node.received_bytes)];
}

function tripOf(us) {
  if (us <= 0) return '–';
  return us < 1000 ? `${Math.round(us)}\u202fµs` : span(us / 1000);
}

function nodeRow(node, number, regions, ms) {
  const owned = regions.filter((region) => region.owner === node.node).length;
  const shadowed = regions.filter((region) => region.shadow === node.node).length;
  const cells = [['State', kStates[node.state] ?? node.state]];
  cells.push(['Regions', `${owned}${shadowed > 0 ? `, shadow of ${shadowed}` : ''}`]);
  if (node.sent_bytes === undefined) {
    cells.push(['Round trip', '–'], ['Out, in', '–']);
  } else {
    const [out, in_] = linkRates(node, ms).map((r) => (Number.isFinite(r) ? `${bytes(Math.max(0, r))}/s` : '–'));
    cells.push(['Round trip', tripOf(node.rtt_p50_us)], ['Out, in', `${out}, ${in_}`]);
  }
  const lacks = node.missing_bytes > 0 ? ` · lacks ${bytes(node.missing_bytes)}` : '';
  cells.push(['Offers', `${bytes(node.offered_bytes)}${lacks}${node.error ? ` · ${node.error}` : ''}`]);
  const head = make('th', { scope: 'row' }, make('span', { class: 'form', 'aria-hidden': 'true' }, formOf(number)),
    ` ${letter(number)} ${node.node}${node.self ? ' (this one)' : ''}`);
  head.title = node.address;
  const row = make('tr', { 'data-state': node.state }, head);
  for (const [name, text] of cells) row.append(make('td', { 'data-name': name }, text));
  return row;
}

const changed = new Map();  // by region: its placement in words, and until when it is shown as new

function regionItem(number, share, place) {
  const now = performance.now();
  const placed = place ? [place.owner, place.shadow, place.target].join(' ') : '';
  const before = changed.get(number);
  if (before?.placed !== placed) changed.set(number, { placed, until: before ? now + kNew : 0 });
  const item = make('li', { 'data-new': String(changed.get(number).until > now) });
  item.dataset.moving = String(Boolean(place?.target));
  item.append(make('span', { class: 'number' }, String(number)));
  if (place) {
    const who = make('span', { class: 'who' }, place.ownerSign);
    if (place.shadowSign) who.append(make('small', {}, ` ${place.shadowSign}`));
    if (place.targetSign) who.append(make('b', {}, ` →\u202f${place.targetSign}`));
    item.append(who);
  }
  const fill = make('span', { class: 'fill' });
  fill.style.inlineSize = `${Math.min(100, 100 * share.relative).toFixed(1)}%`;
  const load = make('span', { class: 'load', 'aria-hidden': 'true' }, fill);
  item.append(load, make('span', { class: 'share' }, percent(share.absolute, 0)));
  const words = [`Region ${number}`];
  if (place) {
    words.push(place.owner || 'nobody');
    if (place.shadow) words.push(`shadow ${place.shadow}`);
    if (place.target) words.push(`moving to ${place.target}`);
  }
  item.setAttribute('aria-label', `${words.join(', ')}, ${percent(share.absolute, 0)} of the requests`);
  return item;
}

function counters(pairs) {
  const line = ([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, count(value)));
  $('counters').replaceChildren(...pairs.map(line));
}

let shownAs = '', shownAt = 0;

// Returns by region the number of its node, for the torus; null: one process has them all. What is long to read is
// shown anew when a placement or a state has changed, else only now and then.
export function showCluster(moment) {
  // A cluster of one node is a process like any other.
  const cluster = moment.cluster?.nodes.length > 1 ? moment.cluster : null;
  const numbers = new Map(cluster?.nodes.map((node, number) => [node.node, number]) ?? []);
  const placed = cluster?.regions.map(({ owner, shadow, target }) => [owner, shadow, target]);
  const key = JSON.stringify([cluster?.coordinator, cluster?.nodes.map(({ node, state }) => [node, state]), placed]);
  if (key !== shownAs || performance.now() - shownAt > kSlow) {
    shownAs = key;
    shownAt = performance.now();
    show(moment, cluster, numbers);
  }
  return cluster ? cluster.regions.map((region) => numbers.get(region.owner) ?? 0) : null;
}

function show(moment, cluster, numbers) {
  const requests = moment.regions.requests;
  const all = requests.reduce((sum, n) => sum + n, 0);
  const most = requests.reduce((highest, n) => Math.max(highest, n), 0);
  const share = (n) => ({ absolute: all > 0 ? n / all : 0, relative: most > 0 ? n / most : 0 });
  const sign = (name) => (numbers.has(name) ? `${formOf(numbers.get(name))}${letter(numbers.get(name))}` : '');
  $('nodes').hidden = !cluster;
  if (cluster) {
    say('cluster-facts', `${cluster.name} · coordinated by ${cluster.coordinator} · term ${cluster.term}`);
    const row = (node, number) => nodeRow(node, number, cluster.regions, moment.up_ms);
    $('nodes-body').replaceChildren(...cluster.nodes.map(row));
    counters([
      ['failovers', cluster.failovers],
      ['migrations', cluster.migrations],
      ['asked twice', cluster.hedges_sent],
      ['of these won', cluster.hedges_won],
      ['rerouted', cluster.rerouted],
      ['refused', cluster.refused],
    ]);
  } else {
    say('cluster-facts', `one process answers for all ${requests.length} regions`);
    const { restarts, retries, timeouts, failed_jobs } = moment.faults;
    counters([['restarts', restarts], ['asked again', retries], ['too late', timeouts], ['failed', failed_jobs]]);
  }
  const items = requests.map((n, number) => {
    const region = cluster?.regions[number];
    const place = region && {
      ...region,
      ownerSign: sign(region.owner) || '–',
      shadowSign: sign(region.shadow),
      targetSign: sign(region.target),
    };
    return regionItem(number, share(n), place);
  });
  $('regions').dataset.placed = String(Boolean(cluster));
  $('regions').replaceChildren(...items);
}

const kParts = [
  ['experts', 'experts', 'cache_bytes'],
  ['shared', 'shared weights', 'shared_bytes'],
  ['sessions', 'sessions', 'session_bytes'],
  ['index', 'index of the tiles', 'index_bytes'],
  ['other', 'the program itself', 'other_bytes'],
];

export function showMemory(moment) {
  const { plan, cache } = moment;
  const parts = [];
  if (plan) {
    say('memory-facts', `planned within ${bytes(plan.ram_bytes)}, ${bytes(moment.process.resident_bytes)} in use`);
    for (const [kind, name, key] of kParts) if (plan[key] > 0) parts.push([kind, name, plan[key], bytes(plan[key])]);
  } else {
    say('memory-facts', `all of the model is in memory: ${bytes(moment.process.resident_bytes)} in use`);
  }
  const all = parts.reduce((sum, [, , size]) => sum + size, 0);
  const bar = $('plan-bar');
  bar.hidden = parts.length === 0;
  const key = parts.map(([kind, , size]) => kind + size).join();
  if (bar.dataset.key !== key) {
    bar.dataset.key = key;
    bar.replaceChildren(...parts.map(([kind, , size]) => {
      const piece = make('span', { class: `piece ${kind}` });
      piece.style.flexGrow = String(size / all);
      return piece;
    }));
  }
  const rows = parts.map(([kind, name, , text]) => [kind, name, text]);
  if (cache) {
    rows.push(
      ['', 'experts of the whole model', bytes(cache.model_bytes)],
      ['', 'read from disk so far', bytes(cache.read_bytes)],
      ['', 'tiles given up for others', count(cache.evicted)],
      ['', 'waiting for the disk', `${span(cache.stall_ms)} in all`],
      ['', 'guessed tiles that were used', cache.guessed > 0 ? percent(cache.guessed_used / cache.guessed) : '–'],
      ['', 'read by', cache.reads],
    );
  } else {
    rows.push(
      ['', 'parameters', count(moment.model.parameters)],
      ['', 'of these at work for a token', count(moment.model.active_parameters)],
    );
  }
  const row = ([kind, name, value]) =>
    make('div', {}, make('dt', {}, make('span', { class: `key ${kind}` }), name), make('dd', {}, value));
  $('plan-parts').replaceChildren(...rows.map(row));
}
