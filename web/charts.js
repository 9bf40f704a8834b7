// Rates from counters, and the plot of their history.

// The rate of a counter over about so many ms: what the last moments say, not the very last one alone.
export class Rate {
  constructor(over = 1500) {
    this.over = over;
    this.seen = [];
  }
  add(ms, value) {
    if (value < this.seen.at(-1)?.[1]) this.seen = [];  // it counts anew
    this.seen.push([ms, value]);
    while (this.seen.length > 2 && ms - this.seen[1][0] >= this.over) this.seen.shift();
    const [then, before] = this.seen[0];
    return ms > then ? (1000 * (value - before)) / (ms - then) : NaN;
  }
  clear() {
    this.seen = [];
  }
}

// A number that 0 and the highest fit under, and that people can divide: 1, 2 or 5 times a power of ten.
export function niceTop(highest) {
  if (!(highest > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(highest));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= highest);
}

export class History {
  constructor(svg, over = 120000) {
    this.svg = svg;
    this.over = over;
    this.points = [];  // [ms, value]
    this.area = svg.querySelector('.area');
    this.line = svg.querySelector('.line');
    this.box = svg.viewBox.baseVal;
  }
  add(ms, value) {
    if (!Number.isFinite(value)) return;
    this.points.push([ms, value]);
    while (this.points[0][0] < ms - this.over) this.points.shift();
  }
  clear() {
    this.points = [];
  }
  get highest() {
    return this.points.reduce((most, [, value]) => Math.max(most, value), 0);
  }
  // Returns the value at the plot's upper edge.
  draw(now) {
    const top = niceTop(this.highest);
    const { width, height } = this.box;
    const places = this.points.map(([ms, value]) => {
      const x = width * (1 - (now - ms) / this.over);
      return `${x.toFixed(1)},${((height - 2) * (1 - value / top) + 1).toFixed(1)}`;
    });
    const line = places.length > 1 ? `M${places.join('L')}` : '';
    this.line.setAttribute('d', line);
    this.area.setAttribute('d', line && `${line}V${height}H${places[0].split(',')[0]}Z`);
    return top;
  }
}
