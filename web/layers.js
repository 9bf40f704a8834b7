// The layers as a strip each, one cell an expert: what was used just now, and what was taken last.
import { cell, make, percent, regionOf } from './format.js';

const kHalfLife = 4000;  // ms

export class Layers {
  constructor(canvas, said, body) {
    this.canvas = canvas;
    this.said = said;
    this.body = body;
    this.context = canvas.getContext('2d');
    this.heat = new Map();
    this.cooled = performance.now();
    this.layers = [];
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  setModel(model) {
    this.model = model;
    this.experts = model.lattice.reduce((product, n) => product * n, 1);
    this.layers = [];
    this.heat = new Map();
  }

  tell(layers) {
    const now = performance.now();
    const factor = 0.5 ** ((now - this.cooled) / kHalfLife);
    this.cooled = now;
    if (layers.length !== this.layers.length) {
      this.heat = new Map(layers.map(({ layer }) => [layer, new Float64Array(this.experts)]));
      const row = layers.length > 24 ? 7 : layers.length > 12 ? 11 : 16;
      this.canvas.style.height = `${row * layers.length + 2}px`;
    }
    this.layers = layers;
    for (const { layer, taken } of layers) {
      const heat = this.heat.get(layer);
      for (let e = 0; e < heat.length; e++) heat[e] *= factor;
      for (let i = 0; i < taken.length; i += 2) heat[taken[i]] += taken[i + 1];
    }
    this.draw();
  }

  draw() {
    if (!this.model || this.layers.length === 0 || this.canvas.clientWidth === 0) return;
    const { canvas, context: c } = this;
    const ratio = Math.min(2, devicePixelRatio || 1);
    const width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    const of = (name) => style.getPropertyValue(name).trim();
    const heats = [0, 1, 2, 3, 4].map((i) => of(`--heat-${i}`));
    const left = 26, wide = (width - left) / this.experts, tall = height / this.layers.length;
    const gap = tall > 9 ? 3 : 1;
    c.font = '10px ui-monospace, monospace';
    c.textAlign = 'right';
    c.textBaseline = 'middle';
    this.layers.forEach(({ layer, last }, row) => {
      const top = row * tall, heat = this.heat.get(layer);
      const hottest = heat.reduce((most, h) => Math.max(most, h), 0);
      if (tall > 9 || row % 4 === 0) {
        c.fillStyle = of('--quiet');
        c.fillText(String(layer), left - 7, top + tall / 2);
      }
      c.fillStyle = of('--rail');
      c.fillRect(left, top + tall - gap - 1, width - left, 1);
      for (let e = 0; e < heat.length; e++) {
        const glow = hottest > 0.02 ? Math.sqrt(heat[e] / hottest) : 0;
        if (glow < 0.06) continue;
        // Taller as well as darker: it must be seen without colour.
        const h = Math.max(1.5, (tall - gap) * (0.25 + 0.75 * glow));
        c.fillStyle = heats[Math.max(1, Math.round(glow * 4))];
        c.fillRect(left + e * wide, top + tall - gap - h, Math.max(1.2, wide - 0.6), h);
      }
      if (last >= 0) {
        c.fillStyle = of('--ink');
        const x = left + (last + 0.5) * wide;
        c.beginPath();
        c.moveTo(x - 3.2, top + tall - gap + 3);
        c.lineTo(x + 3.2, top + tall - gap + 3);
        c.lineTo(x, top + tall - gap - 2);
        c.fill();
      }
    });
  }

  // The table that says the same.
  fill() {
    const rows = this.layers.map(({ layer, last }) => {
      const heat = this.heat.get(layer);
      const all = heat.reduce((sum, h) => sum + h, 0);
      const ranked = [...heat.keys()].filter((e) => heat[e] > 0.02).sort((a, b) => heat[b] - heat[a]);
      const said = ranked.slice(0, 3).map((e) => `${e} (${percent(heat[e] / all, 0)})`);
      const most = said.join(', ') || '–';
      const told = [layer, '–', '–', '–', most];
      if (last >= 0) told.splice(1, 3, last, cell(this.model.lattice, last).join(', '), regionOf(this.model, last));
      const row = make('tr', {}, make('th', { scope: 'row' }, String(told[0])));
      row.append(...told.slice(1).map((what) => make('td', {}, String(what))));
      return row;
    });
    this.body.replaceChildren(...rows);
  }
}
