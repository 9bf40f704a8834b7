// Numbers as people read them, and small helpers for the page's elements.

export const $ = (id) => document.getElementById(id);

// Writes only what differs: an unchanged text costs nothing, and is not read out again.
export function say(element, text) {
  const node = typeof element === 'string' ? $(element) : element;
  if (node.textContent !== text) node.textContent = text;
}

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === 'class') element.className = value;
    else if (name.startsWith('aria-') || name === 'role' || name === 'scope') element.setAttribute(name, value);
    else if (name.startsWith('data-')) element.dataset[name.slice(5)] = value;
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0, useGrouping: true });
// 1 234 567, with narrow spaces that do not break.
export const count = (n) => whole.format(n).replaceAll(',', '\u202f');

// Three digits that matter: 0.42, 8.31, 42.0, 913, 12 300.
export function rate(n) {
  if (!Number.isFinite(n)) return '–';
  if (n === 0) return '0';
  if (n < 10) return n.toFixed(2);
  if (n < 100) return n.toFixed(1);
  return count(n);
}

// Powers of ten, as disks and networks are sold.
export function bytes(n) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let unit = 0;
  while (n >= 1000 && unit < units.length - 1) {
    n /= 1000;
    unit++;
  }
  return `${unit === 0 || n >= 100 ? Math.round(n) : n.toPrecision(3)}\u202f${units[unit]}`;
}

export function parameters(n) {
  for (const [size, word] of [[1e12, 'trillion'], [1e9, 'billion'], [1e6, 'million']]) {
    if (n >= size) return `${(n / size).toPrecision(3)} ${word}`;
  }
  return count(n);
}

export function percent(share, digits = share >= 0.9995 || share < 0.1 ? 0 : 1) {
  return `${(100 * share).toFixed(digits)}\u202f%`;
}

export function span(ms) {
  if (ms < 1000) return `${Math.round(ms)}\u202fms`;
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(s < 10 ? 1 : 0)}\u202fs`;
  if (s < 3600) return `${Math.floor(s / 60)}\u202fmin`;
  if (s < 86400) return `${Math.floor(s / 3600)}\u202fh ${Math.floor((s % 3600) / 60)}\u202fmin`;
  return `${Math.floor(s / 86400)}\u202fd ${Math.floor((s % 86400) / 3600)}\u202fh`;
}

// Experts and regions on their lattice: the first axis runs fastest.
export function cell(lattice, number) {
  const [nx, ny] = lattice;
  return [number % nx, Math.floor(number / nx) % ny, Math.floor(number / nx / ny)];
}
export function regionOf(model, expert) {
  const at = cell(model.lattice, expert).map((c, axis) => Math.floor(c / model.region[axis]));
  const blocks = model.lattice.map((n, axis) => n / model.region[axis]);
  return at[0] + blocks[0] * (at[1] + blocks[1] * at[2]);
}
