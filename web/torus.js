// The lattice of experts in perspective: every expert a disc that grows and glows with its use, and the way of
// the last token through the layers. Whatever leaves the lattice on one side comes back on the other, and so does
// the way.
import { cell, count, regionOf } from './format.js';

const kHalfLife = 2500;  // ms in which an expert that is not asked cools by half
const kFrame = 33;  // ms between pictures while something moves
const kView = { yaw: -0.62, pitch: 0.42, near: 1 };

// By form, in radii.
const kCorners = [
  [],
  [[-0.88, -0.88], [0.88, -0.88], [0.88, 0.88], [-0.88, 0.88]],
  [[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]],
  [[0, -1.2], [1.1, 0.8], [-1.1, 0.8]],
];

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// The shorter step from a to b on an axis of n places that wraps around.
function shortest(a, b, n) {
  const step = (((b - a) % n) + n) % n;
  return step > n / 2 ? step - n : step;
}

export class Torus {
  constructor(canvas, tip, onSay) {
    this.canvas = canvas;
    this.tip = tip;
    this.onSay = onSay;
    this.context = canvas.getContext('2d');
    this.view = { ...kView };
    this.turns = true;
    this.heat = new Float64Array(0);
    this.rows = [];
    this.path = [];
    this.owners = null;
    this.chosen = -1;
    this.cooled = performance.now();
    this.moving = 0;
    this.busy = -1e9;  // when tokens were seen last
    this.still = matchMedia('(prefers-reduced-motion: reduce)');
    this.still.addEventListener('change', () => this.wake());
    new ResizeObserver(() => this.wake()).observe(canvas);
    this.seen = true;
    new IntersectionObserver(([entry]) => {
      this.seen = entry.isIntersecting;
      this.wake();
    }).observe(canvas);
    this.listen();
  }

  setModel(model) {
    this.model = model;
    const [nx, ny, nz] = model.lattice;
    const experts = nx * ny * nz;
    // What was known of another model says nothing of this one.
    this.heat = new Float64Array(experts);
    this.rows = [];
    this.path = [];
    this.points = null;
    this.chosen = -1;
    // Centred, the longest axis from -1 to 1.
    const scale = 2 / Math.max(nx - 1, ny - 1, nz - 1, 1);
    this.scale = scale;
    this.places = Array.from({ length: experts }, (_, e) => cell(model.lattice, e));
    this.centre = [(nx - 1) / 2, (ny - 1) / 2, (nz - 1) / 2];
    // Edges between neighbours.
    this.edges = [];
    for (let e = 0; e < experts; e++) {
      const [x, y, z] = this.places[e];
      if (x + 1 < nx) this.edges.push([e, e + 1]);
      if (y + 1 < ny) this.edges.push([e, e + nx]);
      if (z + 1 < nz) this.edges.push([e, e + nx * ny]);
    }
    this.regions = this.places.map((_, e) => regionOf(model, e));
    this.wake();
  }

  // `layers`: of a moment. `owners`: by region the number of its node, or null.
  tell(layers, rows, owners) {
    this.cool();
    for (const { taken } of layers) {
      for (let i = 0; i < taken.length; i += 2) this.heat[taken[i]] += taken[i + 1];
    }
    this.layers = layers;
    this.rows = rows;
    this.owners = owners;
    this.path = layers.filter(({ last }) => last >= 0).map(({ layer, last }) => ({ layer, expert: last }));
    if (layers.some(({ taken }) => taken.length > 0)) this.busy = performance.now();
    this.wake();
  }

  cool() {
    const now = performance.now();
    const factor = 0.5 ** ((now - this.cooled) / kHalfLife);
    this.cooled = now;
    for (let e = 0; e < this.heat.length; e++) this.heat[e] = this.heat[e] < 1e-3 ? 0 : this.heat[e] * factor;
  }
  get hottest() {
    return this.heat.reduce((most, heat) => Math.max(most, heat), 0);
  }
  // How much of the most used expert's heat, as the eye should see it.
  glow(e, hottest) {
    return hottest > 0 ? (this.heat[e] / hottest) ** 0.7 * Math.min(1, hottest / 0.05) : 0;
  }

  // Draws soon, and goes on as long as something moves.
  wake() {
    if (this.moving === 0 && this.seen) this.moving = requestAnimationFrame((time) => this.frame(time));
  }
  frame(time) {
    this.moving = 0;
    if (!this.seen || document.hidden || !this.model) return;
    const passed = time - (this.drawn ?? 0);
    const alive = time - this.busy < 1500;
    const turning = alive && this.turns && !this.still.matches && !this.held;
    if (passed >= kFrame) {
      if (turning) this.view.yaw += (Math.min(passed, 100) / 1000) * 0.11;
      this.cool();
      this.draw();
      this.drawn = time;
    }
    if (turning || this.hottest > 1e-3 || passed < kFrame) {
      // With reduced motion the discs change with every moment of the feed and not between.
      if (!this.still.matches || passed < kFrame) this.wake();
    }
  }

  project([x, y, z]) {
    const { yaw, pitch, near } = this.view;
    x = (x - this.centre[0]) * this.scale;
    y = (y - this.centre[1]) * this.scale;
    z = (z - this.centre[2]) * this.scale;
    const x1 = x * Math.cos(yaw) + z * Math.sin(yaw);
    const z1 = z * Math.cos(yaw) - x * Math.sin(yaw);
    const y2 = y * Math.cos(pitch) - z1 * Math.sin(pitch);
    const z2 = y * Math.sin(pitch) + z1 * Math.cos(pitch);
    const depth = 3.4 / (3.4 + z2);  // 1 in the middle, more in front
    const size = Math.min(this.width * 0.39, this.height * 0.5) * near;
    return { x: this.width / 2 + x1 * size * depth, y: this.height / 2 + y2 * size * depth, depth };
  }

  colours() {
    const style = getComputedStyle(this.canvas);
    const of = (name) => style.getPropertyValue(name).trim();
    const heat = [0, 1, 2, 3, 4].map((i) => of(`--heat-${i}`));
    return { ink: of('--ink'), edge: of('--edge'), paper: of('--paper'), way: of('--way'), heat };
  }

  draw() {
    const { canvas, context: c } = this;
    const ratio = Math.min(2, devicePixelRatio || 1);
    this.width = canvas.clientWidth;
    this.height = canvas.clientHeight;
    if (canvas.width !== Math.round(this.width * ratio) || canvas.height !== Math.round(this.height * ratio)) {
      canvas.width = Math.round(this.width * ratio);
      canvas.height = Math.round(this.height * ratio);
    }
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, this.width, this.height);
    const colours = this.colours();
    this.points = this.places.map((place) => this.project(place));
    this.radius = Math.min(this.width, this.height * 1.6) / 105;
    this.drawEdges(colours);
    const order = this.points.map((_, e) => e).sort((a, b) => this.points[a].depth - this.points[b].depth);
    const hottest = this.hottest;
    for (const e of order) this.drawExpert(e, this.glow(e, hottest), colours);
    this.drawWay(colours);
    this.drawChosen(colours);
  }

  drawEdges(colours) {
    const c = this.context;
    c.strokeStyle = colours.edge;
    for (const [a, b] of this.edges) {
      const from = this.points[a], to = this.points[b];
      const depth = (from.depth + to.depth) / 2;
      // Within a region the line is whole, between regions it is faint.
      const inside = this.regions[a] === this.regions[b];
      c.globalAlpha = clamp((depth - 0.62) * 1.5, 0.1, 1) * (inside ? 0.9 : 0.28);
      c.lineWidth = inside ? 1.1 * depth : 0.7;
      c.beginPath();
      c.moveTo(from.x, from.y);
      c.lineTo(to.x, to.y);
      c.stroke();
    }
    c.globalAlpha = 1;
  }

  // The node that answers is told by the disc's form: round for this process, then square, diamond, triangle.
  shape(x, y, r, owner) {
    const c = this.context;
    c.beginPath();
    const form = owner < 1 ? 0 : 1 + ((owner - 1) % 3);
    if (form === 0) c.arc(x, y, r, 0, 2 * Math.PI);
    kCorners[form].forEach(([dx, dy], i) => (i ? c.lineTo(x + dx * r, y + dy * r) : c.moveTo(x + dx * r, y + dy * r)));
    c.closePath();
  }

  drawExpert(e, glow, colours) {
    const c = this.context;
    const { x, y, depth } = this.points[e];
    const owner = this.owners?.[this.regions[e]] ?? 0;
    const r = this.radius * depth * (0.5 + 1.15 * glow);
    c.globalAlpha = clamp((depth - 0.55) * 2, 0.3, 1);
    if (glow > 0.25) {
      c.fillStyle = colours.heat[4];
      c.globalAlpha *= 0.1 * glow;
      this.shape(x, y, r * 1.9, owner);
      c.fill();
      c.globalAlpha = clamp((depth - 0.55) * 2, 0.3, 1);
    }
    c.fillStyle = colours.heat[Math.round(glow * 4)];
    this.shape(x, y, r, owner);
    c.fill();
    c.globalAlpha = 1;
  }

  // One piece of the way in lattice coordinates, bent a little away from the straight line, from the part t0 to t1.
  piece(from, to, t0, t1, fade, colours, width) {
    const c = this.context;
    const steps = 14;
    const bend = 0.16 * Math.hypot(...to.map((v, i) => v - from[i]));
    let before = null;
    for (let i = 0; i <= steps; i++) {
      const t = t0 + ((t1 - t0) * i) / steps;
      const at = from.map((v, axis) => v + (to[axis] - v) * t);
      at[1] -= bend * 4 * t * (1 - t);
      const point = this.project(at);
      if (before) {
        c.globalAlpha = clamp(fade(t) * clamp((point.depth - 0.4) * 1.5, 0.35, 1), 0, 1);
        c.strokeStyle = colours.way;
        c.lineWidth = width * point.depth;
        c.beginPath();
        c.moveTo(before.x, before.y);
        c.lineTo(point.x, point.y);
        c.stroke();
      }
      before = point;
    }
  }

  drawWay(colours) {
    const c = this.context;
    if (this.path.length === 0) return;
    const age = performance.now() - this.busy;
    const few = this.path.length <= 16;
    const strength = (age < 2000 ? 1 : 0.35) * (few ? 1 : 0.55);
    c.lineCap = 'round';
    for (let i = 0; i + 1 < this.path.length; i++) {
      const a = this.places[this.path[i].expert], b = this.places[this.path[i + 1].expert];
      const n = this.model.lattice;
      const step = a.map((v, axis) => shortest(v, b[axis], n[axis]));
      const beyond = a.map((v, axis) => v + step[axis]);
      const wraps = beyond.some((v, axis) => v !== b[axis]);
      const width = (few ? 1.4 : 0.8) + 1.2 * (i / Math.max(1, this.path.length - 2));
      if (!wraps) {
        this.piece(a, b, 0, 1, () => 0.85 * strength, colours, width);
      } else {
        this.piece(a, beyond, 0, 0.5, (t) => 0.85 * strength * (1 - 2 * t), colours, width);
        const outside = b.map((v, axis) => v - step[axis]);
        this.piece(outside, b, 0.5, 1, (t) => 0.85 * strength * (2 * t - 1), colours, width);
      }
    }
    c.globalAlpha = strength;
    // Of a long way only where it begins and ends: the strips tell the rest.
    const told = few ? this.path : [this.path[0], this.path.at(-1)];
    const labels = new Map();
    for (const { layer, expert } of told) labels.set(expert, [...(labels.get(expert) ?? []), layer]);
    c.font = '600 11px ui-monospace, monospace';
    c.textAlign = 'left';
    c.textBaseline = 'middle';
    for (const [expert, layers] of labels) {
      const { x, y, depth } = this.points[expert];
      c.strokeStyle = colours.way;
      c.lineWidth = 1.6;
      this.shape(x, y, this.radius * depth * 1.9, this.owners?.[this.regions[expert]] ?? 0);
      c.stroke();
      const text = layers.join(',');
      const left = x + this.radius * depth * 2.2 + 2, top = y - this.radius * depth * 1.6;
      c.lineWidth = 3.5;
      c.lineJoin = 'round';
      c.strokeStyle = colours.paper;
      c.strokeText(text, left, top);
      c.fillStyle = colours.ink;
      c.fillText(text, left, top);
    }
    c.globalAlpha = 1;
  }

  drawChosen(colours) {
    if (this.chosen < 0) {
      this.tip.hidden = true;
      return;
    }
    const c = this.context;
    const { x, y, depth } = this.points[this.chosen];
    c.strokeStyle = colours.ink;
    c.lineWidth = 2;
    c.setLineDash([4, 3]);
    c.beginPath();
    c.arc(x, y, this.radius * depth * 2.7, 0, 2 * Math.PI);
    c.stroke();
    c.setLineDash([]);
    this.tip.hidden = false;
    const text = this.describe(this.chosen);
    if (this.tip.textContent !== text) this.tip.textContent = text;
    const left = clamp(x + 14, 4, Math.max(4, this.width - this.tip.offsetWidth - 4));
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${clamp(y + 14, 4, Math.max(4, this.height - this.tip.offsetHeight - 4))}px`;
  }

  describe(e) {
    const layers = this.path.filter(({ expert }) => expert === e).map(({ layer }) => layer);
    const taken = layers.length > 0 ? ` · taken last by layer ${layers.join(', ')}` : '';
    const at = `Expert ${e} at ${this.places[e].join(', ')} · region ${this.regions[e]}`;
    return `${at} · ${count(this.rows[e] ?? 0)} rows${taken}`;
  }

  choose(e) {
    this.chosen = e;
    if (e >= 0) this.onSay(this.describe(e));
    this.wake();
  }
  // The experts in use, the hottest first; else those that were used most since the start.
  ranked() {
    const use = this.hottest > 0 ? this.heat : this.rows;
    return this.places.map((_, e) => e).filter((e) => use[e] > 0).sort((a, b) => use[b] - use[a]);
  }
  near(x, y) {
    let best = -1, least = 18 ** 2;
    this.points?.forEach((point, e) => {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < least) [best, least] = [e, distance];
    });
    return best;
  }

  reset() {
    this.view = { ...kView };
    this.choose(-1);
  }
  turnBy(yaw, pitch) {
    this.view.yaw += yaw;
    this.view.pitch = clamp(this.view.pitch + pitch, -1.4, 1.4);
    this.wake();
  }
  comeNear(factor) {
    this.view.near = clamp(this.view.near * factor, 0.5, 3);
    this.wake();
  }

  listen() {
    const { canvas } = this;
    let from = null;
    canvas.addEventListener('pointerdown', (event) => {
      canvas.setPointerCapture(event.pointerId);
      from = { x: event.clientX, y: event.clientY };
      this.held = true;
    });
    canvas.addEventListener('pointermove', (event) => {
      if (from) {
        this.turnBy((event.clientX - from.x) / 160, (event.clientY - from.y) / 160);
        from = { x: event.clientX, y: event.clientY };
      } else if (event.pointerType === 'mouse') {
        const box = canvas.getBoundingClientRect();
        const e = this.near(event.clientX - box.left, event.clientY - box.top);
        if (e !== this.chosen) this.choose(e);
      }
    });
    const leave = () => {
      from = null;
      this.held = false;
      this.wake();
    };
    canvas.addEventListener('pointerup', leave);
    canvas.addEventListener('pointercancel', leave);
    canvas.addEventListener('pointerleave', () => {
      if (document.activeElement !== canvas) this.choose(-1);
    });
    canvas.addEventListener('keydown', (event) => {
      const turn = 0.12;
      const keys = {
        ArrowLeft: () => this.turnBy(-turn, 0),
        ArrowRight: () => this.turnBy(turn, 0),
        ArrowUp: () => this.turnBy(0, -turn),
        ArrowDown: () => this.turnBy(0, turn),
        '+': () => this.comeNear(1.15),
        '=': () => this.comeNear(1.15),
        '-': () => this.comeNear(1 / 1.15),
        Home: () => this.reset(),
        Escape: () => this.choose(-1),
        '.': () => this.step(1),
        ',': () => this.step(-1),
      };
      if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });
  }
  step(by) {
    const ranked = this.ranked();
    if (ranked.length === 0) return;
    const at = ranked.indexOf(this.chosen);
    this.choose(ranked[at < 0 ? 0 : (at + by + ranked.length) % ranked.length]);
  }
}
