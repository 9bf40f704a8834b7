// Tasks that were handed in: how many are where, and the latest.
import { $, count, make, say, span } from './format.js';

const kSlow = 2000;  // ms between changes that are no news
const kSigns = {
  scheduled: '◷', queued: '…', running: '▸', waiting: '⋯', succeeded: '✓', failed: '×', cancelled: '–',
};
const kLive = ['scheduled', 'queued', 'running', 'waiting'], kOver = ['succeeded', 'failed', 'cancelled'];

function row(task, now) {
  const what = task.target ? `${task.executor} ${task.target}` : task.executor;
  const head = make('th', { scope: 'row' }, make('code', {}, task.id.slice(0, 8)));
  head.title = task.id;
  const result = make('tr', { 'data-state': task.status }, head);
  const children = task.children > 0 ? ` · ${task.children_over} of ${task.children} over` : '';
  const cells = [
    ['State', `${kSigns[task.status] ?? ''} ${task.status}${children}`],
    ['Work', what],
    ['Caller', task.caller || '–'],
    ['Attempt', task.attempt > 0 ? String(task.attempt) : '–'],
    ['Node', task.node || '–'],
    ['Since', span(Math.max(0, now - task.updated_ms))],
    ['Error', task.error || '–'],
  ];
  for (const [name, text] of cells) result.append(make('td', { 'data-name': name }, text));
  return result;
}

let shownAs = '', shownAt = -Infinity;

// What is long to read is shown anew when a task has changed, else only now and then.
export function showTasks(moment) {
  const { tasks } = moment;
  $('tasks-board').hidden = !tasks;
  if (!tasks) return;
  const key = tasks.latest.map(({ id, status, attempt }) => id + status + attempt).join();
  const live = kLive.filter((status) => tasks[status] > 0).map((status) => `${count(tasks[status])} ${status}`);
  const facts = live.length > 0 ? live.join(' · ') : tasks.latest.length > 0 ? 'all are over' : 'none so far';
  say('tasks-facts', tasks.store ? `the store takes no writes: ${tasks.store}` : facts);
  if (key === shownAs && performance.now() - shownAt < kSlow) return;
  shownAs = key;
  shownAt = performance.now();
  $('tasks-scroll').hidden = tasks.latest.length === 0;
  $('tasks-body').replaceChildren(...tasks.latest.map((task) => row(task, moment.time_ms)));
  const pairs = [['accepted', tasks.accepted], ...kOver.map((status) => [status, tasks[status]]),
    ['attempts', tasks.attempts], ['lost', tasks.lost], ['watched', tasks.watches]];
  const line = ([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, count(value)));
  $('tasks-counters').replaceChildren(...pairs.map(line));
}
