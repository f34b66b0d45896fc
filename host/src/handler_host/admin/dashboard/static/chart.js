// Memory over time, stacked: host, fork server, each worker; the budget and the limit as lines.
/* global uPlot */

import { clock, element, put, size } from "./format.js";

const PALETTE = 8;
const SHORTEST = 20; // seconds
const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1024, 2048, 5120, 10240, 20480, 51200, 102400].map((mb) => mb * 1048576);
const HOST = "host";
const FORK_SERVER = "fork server";
const FAR = 5; // a line so many times above the memory would flatten the steps

export class Chart {
  constructor(target, legend) {
    this.target = target;
    this.legend = legend;
    this.samples = [];
    this.colours = new Map();
    this.seconds = 900;
    this.names = "";
    this.plot = null;
    this.rows = new Map();
    new ResizeObserver(() => this.resize()).observe(target);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.rebuild());
    target.addEventListener("keydown", (event) => this.key(event));
    target.addEventListener("blur", () => this.plot?.setCursor({ left: -10, top: -10 }));
  }

  reset() {
    this.samples = [];
    this.last = 0;
  }

  get since() {
    return this.last || 0;
  }

  show(overview) {
    const offset = Date.now() / 1000 - overview.now;
    // By the catalog, and not as they come: each page has the same colours, before a reload and after it.
    for (const { name } of overview.handlers) this.colour(name);
    this.limit = overview.memory.limit;
    this.usable = overview.memory.usable;
    // The newest measurement comes each time, also where it brought nothing new; it is replaced by what follows.
    if (this.provisional) this.samples.pop();
    this.provisional = false;
    for (const [number, at, host, forkServer, workers] of overview.history) {
      const sample = { number, time: at + offset, host, forkServer: forkServer || 0, workers };
      this.provisional = number === this.since && this.samples.length > 0;
      this.samples.push(sample);
      this.last = number;
    }
    const oldest = Date.now() / 1000 - 3600;
    while (this.samples.length > 1 && this.samples[1].time < oldest) this.samples.shift();
    this.draw();
  }

  range(seconds) {
    this.seconds = seconds;
    this.draw();
  }

  table() {
    const now = Date.now() / 1000;
    // A young host's chart begins with the host: the first steps are to be seen as well.
    const start = Math.max(now - this.seconds, Math.min(this.samples[0]?.time ?? now, now - SHORTEST));
    let first = this.samples.findIndex((sample) => sample.time >= start);
    if (first < 0) first = this.samples.length;
    const shown = this.samples.slice(Math.max(0, first - 1));
    const handlers = [...new Set(shown.flatMap((sample) => Object.keys(sample.workers)))].sort();
    const names = [HOST, FORK_SERVER, ...handlers];
    const times = shown.map((sample) => sample.time);
    const raw = [
      shown.map((sample) => sample.host),
      shown.map((sample) => sample.forkServer),
      ...handlers.map((name) => shown.map((sample) => sample.workers[name] || 0)),
    ];
    if (shown.length) {
      times.push(now); // the last one holds until now
      for (const series of raw) series.push(series.at(-1));
    }
    const sums = [];
    raw.forEach((series, row) => sums.push(series.map((value, column) => value + (row ? sums[row - 1][column] : 0))));
    return { names, times, raw, sums, start, now };
  }

  draw() {
    const { names, times, raw, sums, start, now } = this.table();
    if (!times.length) return;
    this.raw = raw;
    this.totals = sums.at(-1);
    const peak = Math.max(...this.totals);
    this.lines = { budget: this.usable <= FAR * peak, limit: this.limit <= FAR * peak };
    this.top = Math.max(peak, this.lines.limit ? this.limit : 0, this.lines.budget ? this.usable : 0) * 1.08;
    this.bounds = [start, now];
    const key = JSON.stringify([names, this.lines]);
    // The uppermost sum is drawn first, and what lies below it over it.
    const data = [times, ...[...sums].reverse()];
    if (this.lines.budget) data.push(times.map(() => this.usable));
    if (this.lines.limit) data.push(times.map(() => this.limit));
    if (key !== this.names || this.plot === null) {
      this.names = key;
      this.series = names;
      this.build(data);
    } else {
      this.plot.setData(data);
    }
    this.describe();
    this.fill();
  }

  build(data) {
    this.plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const stepped = uPlot.paths.stepped({ align: 1 });
    const line = (label, dash) => ({ label, stroke: colour("--line"), width: 1.5, dash, points: { show: false } });
    const axis = {
      stroke: colour("--faint"),
      grid: { stroke: colour("--grid"), width: 1 },
      ticks: { show: false },
      font: "12px system-ui, sans-serif",
    };
    const series = [...this.series].reverse().map((name) => ({
      label: name,
      fill: colour(this.colour(name)),
      stroke: colour("--card"),
      width: 1,
      paths: stepped,
      points: { show: false },
    }));
    if (this.lines.budget) series.push(line("budget", [6, 4]));
    if (this.lines.limit) series.push(line("limit", []));
    const options = {
      width: this.target.clientWidth,
      height: this.height(),
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      scales: { x: { range: () => this.bounds }, y: { range: () => [0, this.top] } },
      axes: [
        { ...axis, size: 28, space: 80, values: (_, ticks, __, ___, step) => ticks.map((tick) => clock(tick * 1000, step < 60)) },
        { ...axis, size: 64, incrs: STEPS, values: (_, ticks) => ticks.map((tick) => (tick ? size(tick) : "0")) },
      ],
      series: [{}, ...series],
      hooks: { setCursor: [() => this.fill()] },
    };
    this.target.replaceChildren();
    this.plot = new uPlot(options, data, this.target);
    this.list();
  }

  rebuild() {
    this.names = "";
    this.draw();
  }

  resize() {
    if (this.plot && this.target.clientWidth) {
      this.plot.setSize({ width: this.target.clientWidth, height: this.height() });
    }
  }

  height() {
    return window.innerWidth < 600 ? 190 : 260;
  }

  colour(name) {
    if (name === HOST) return "--series-host";
    if (name === FORK_SERVER) return "--series-fork";
    if (!this.colours.has(name)) this.colours.set(name, this.colours.size % PALETTE);
    return `--series-${this.colours.get(name)}`;
  }

  list() {
    this.rows.clear();
    const rows = [...this.series, "together", "budget", "limit"].map((name) => {
      const value = element("b");
      const swatch = element("span", { className: "swatch" });
      if (this.series.includes(name)) swatch.dataset.colour = this.colour(name).slice(2);
      else if (name === "limit" || name === "budget") swatch.dataset.line = name;
      this.rows.set(name, value);
      return element("li", { data: { series: name } }, ...(name === "together" ? [] : [swatch]), `${name} `, value);
    });
    this.legend.replaceChildren(...rows);
  }

  // The figures under the cursor, else those of now.
  fill() {
    if (!this.raw?.length) return;
    const under = this.plot?.cursor.idx;
    const index = under === null || under === undefined ? this.totals.length - 1 : under;
    this.series.forEach((name, row) => put(this.rows.get(name), size(this.raw[row][index] || null)));
    put(this.rows.get("together"), size(this.totals[index]));
    put(this.rows.get("budget"), size(this.usable) + (this.lines.budget ? "" : " (above the chart)"));
    put(this.rows.get("limit"), size(this.limit) + (this.lines.limit ? "" : " (above the chart)"));
    const at = this.plot?.data[0][index];
    this.legend.dataset.at = under === null || under === undefined ? "now" : clock(at * 1000);
  }

  describe() {
    const total = this.totals.at(-1);
    const parts = this.series.map((name, row) => `${name} ${size(this.raw[row].at(-1))}`);
    this.target.setAttribute("aria-label", `Memory over time. Now ${size(total)}: ${parts.join(", ")}.`);
    this.target.dataset.total = total;
    this.target.dataset.samples = this.samples.length;
    this.target.dataset.series = this.series.join(" ");
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !this.plot) return;
    event.preventDefault();
    const last = this.plot.data[0].length - 1;
    const index = Math.min(last, Math.max(0, (this.plot.cursor.idx ?? last) + step));
    this.plot.setCursor({ left: this.plot.valToPos(this.plot.data[0][index], "x"), top: 10 });
  }
}
