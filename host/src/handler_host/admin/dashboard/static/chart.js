// Stacked memory over time: host, fork server, each worker; budget and limit as lines.
/* global uPlot */

import { clock, element, setText, size } from "./format.js";

const COLOURS = 8;
const MIN_RANGE_S = 20;
const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1024, 2048, 5120, 10240, 20480, 51200, 102400].map((mb) => mb * 1048576);
const HOST = "host";
const FORK_SERVER = "fork server";
const MAX_RATIO = 5; // a line further above the memory would flatten the chart

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
    target.addEventListener("keydown", (event) => this.moveCursor(event));
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
    // Assign colours in the order of the catalog, so that every page has the same ones.
    for (const { name } of overview.handlers) this.colour(name);
    this.limit = overview.memory.limit;
    this.usable = overview.memory.usable;
    // Each overview ends with the newest measurement, also an unchanged one; the next overview replaces it.
    if (this.isProvisional) this.samples.pop();
    this.isProvisional = false;
    for (const [number, at, host, forkServer, workers] of overview.history) {
      const sample = { number, time: at + offset, host, forkServer: forkServer || 0, workers };
      this.isProvisional = number === this.since && this.samples.length > 0;
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

  buildSeries() {
    const now = Date.now() / 1000;
    // The chart of a new host starts with the host, so that its first steps are visible.
    const start = Math.max(now - this.seconds, Math.min(this.samples[0]?.time ?? now, now - MIN_RANGE_S));
    let first = this.samples.findIndex((sample) => sample.time >= start);
    if (first < 0) first = this.samples.length;
    const visible = this.samples.slice(Math.max(0, first - 1));
    const handlers = [...new Set(visible.flatMap((sample) => Object.keys(sample.workers)))].sort();
    const names = [HOST, FORK_SERVER, ...handlers];
    const times = visible.map((sample) => sample.time);
    const raw = [
      visible.map((sample) => sample.host),
      visible.map((sample) => sample.forkServer),
      ...handlers.map((name) => visible.map((sample) => sample.workers[name] || 0)),
    ];
    if (visible.length) {
      times.push(now); // the last sample holds until now
      for (const series of raw) series.push(series.at(-1));
    }
    const sums = [];
    raw.forEach((series, row) => sums.push(series.map((value, column) => value + (row ? sums[row - 1][column] : 0))));
    return { names, times, raw, sums, start, now };
  }

  draw() {
    const { names, times, raw, sums, start, now } = this.buildSeries();
    if (!times.length) return;
    this.raw = raw;
    this.totals = sums.at(-1);
    const peak = Math.max(...this.totals);
    this.lines = { budget: this.usable <= MAX_RATIO * peak, limit: this.limit <= MAX_RATIO * peak };
    this.top = Math.max(peak, this.lines.limit ? this.limit : 0, this.lines.budget ? this.usable : 0) * 1.08;
    this.bounds = [start, now];
    const key = JSON.stringify([names, this.lines]);
    // Draw the uppermost sum first and the lower ones over it.
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
    this.showFigures();
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
      hooks: { setCursor: [() => this.showFigures()] },
    };
    this.target.replaceChildren();
    this.plot = new uPlot(options, data, this.target);
    this.buildLegend();
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
    if (!this.colours.has(name)) this.colours.set(name, this.colours.size % COLOURS);
    return `--series-${this.colours.get(name)}`;
  }

  buildLegend() {
    this.rows.clear();
    const rows = [...this.series, "total", "budget", "limit"].map((name) => {
      const value = element("b");
      const swatch = element("span", { className: "swatch" });
      if (this.series.includes(name)) swatch.dataset.colour = this.colour(name).slice(2);
      else if (name === "limit" || name === "budget") swatch.dataset.line = name;
      this.rows.set(name, value);
      return element("li", { data: { series: name } }, ...(name === "total" ? [] : [swatch]), `${name} `, value);
    });
    this.legend.replaceChildren(...rows);
  }

  // Show the figures under the cursor, else the present ones.
  showFigures() {
    if (!this.raw?.length) return;
    const cursor = this.plot?.cursor.idx;
    const index = cursor === null || cursor === undefined ? this.totals.length - 1 : cursor;
    this.series.forEach((name, row) => setText(this.rows.get(name), size(this.raw[row][index] || null)));
    setText(this.rows.get("total"), size(this.totals[index]));
    setText(this.rows.get("budget"), size(this.usable) + (this.lines.budget ? "" : " (above the chart)"));
    setText(this.rows.get("limit"), size(this.limit) + (this.lines.limit ? "" : " (above the chart)"));
    const at = this.plot?.data[0][index];
    this.legend.dataset.at = cursor === null || cursor === undefined ? "now" : clock(at * 1000);
  }

  describe() {
    const total = this.totals.at(-1);
    const parts = this.series.map((name, row) => `${name} ${size(this.raw[row].at(-1))}`);
    this.target.setAttribute("aria-label", `Memory over time. Now ${size(total)}: ${parts.join(", ")}.`);
    this.target.dataset.total = total;
    this.target.dataset.samples = this.samples.length;
    this.target.dataset.series = this.series.join(" ");
  }

  moveCursor(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !this.plot) return;
    event.preventDefault();
    const last = this.plot.data[0].length - 1;
    const index = Math.min(last, Math.max(0, (this.plot.cursor.idx ?? last) + step));
    this.plot.setCursor({ left: this.plot.valToPos(this.plot.data[0][index], "x"), top: 10 });
  }
}
