// The page of one handler: a dialog, opened by its name in the table or by the address `#handler=NAME`.

import { call } from "./api.js";
import { clock, duration, element, NONE, setText, size } from "./format.js";
import { FailureList } from "./failures.js";

const PREFIX = "#handler=";

export class Details {
  constructor(find) {
    this.dialog = find("details");
    this.title = find("details-title");
    this.state = find("details-state");
    this.latency = find("details-latency");
    this.workers = find("details-workers").tBodies[0];
    this.failures = new FailureList(find("details-failures"), find("details-no-failures"));
    this.settings = find("details-settings").tBodies[0];
    this.log = find("details-log");
    this.message = find("details-message");
    this.handlers = [];
    this.name = null;
    find("details-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => this.leave());
    window.addEventListener("hashchange", () => this.follow());
  }

  // Show the latest status; open the page that the address names.
  show(handlers) {
    this.handlers = handlers;
    const { name } = this;
    this.follow();
    if (name !== null && name === this.name) this.fetch(); // a page that has just opened fetches by itself
  }

  follow() {
    const name = location.hash.startsWith(PREFIX) ? decodeName(location.hash.slice(PREFIX.length)) : null;
    if (name === this.name) return;
    this.name = name;
    if (name === null) return void this.dialog.close();
    setText(this.title, name);
    for (const list of [this.workers, this.settings, this.latency]) list.replaceChildren();
    this.failures.show([]);
    setText(this.log, "");
    if (!this.dialog.open) this.dialog.showModal();
    this.fetch();
  }

  leave() {
    this.name = null;
    if (location.hash.startsWith(PREFIX)) history.replaceState(null, "", location.pathname + location.search);
  }

  async fetch() {
    const { name } = this;
    try {
      const details = await call("GET", `handlers/${encodeURIComponent(name)}/details`);
      if (name === this.name) this.fill(details);
    } catch (error) {
      if (name === this.name) setText(this.message, error.message);
    }
  }

  fill(details) {
    setText(this.message, "");
    const handler = this.handlers.find(({ name }) => name === this.name);
    setText(this.state, handler ? describeState(handler) : "");
    this.latency.replaceChildren(...latencyRows(details));
    const largest = Math.max(...details.workers.map((worker) => worker.worker_pss || 0), ...(handler?.workers ?? []).map(({ pss }) => pss || 0), 1);
    const running = (handler?.workers ?? []).filter(({ pss }) => pss);
    const now = running.map((worker) => ({ ...worker, worker_pss: worker.pss, isRunning: true })).reverse();
    this.workers.replaceChildren(...[...now, ...details.workers].map((worker) => workerRow(worker, largest)));
    this.failures.show(details.failures);
    this.settings.replaceChildren(...details.settings.map(settingRow));
    const isAtEnd = this.log.scrollTop + this.log.clientHeight >= this.log.scrollHeight - 4;
    setText(this.log, details.log.join("\n") || "nothing logged since the host's start");
    if (isAtEnd) this.log.scrollTop = this.log.scrollHeight;
  }
}

export function addressOf(name) {
  return PREFIX + encodeURIComponent(name);
}

function decodeName(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // of an address that was typed: the page says that it is unknown
  }
}

function describeState(handler) {
  const parts = [handler.state, handler.reason, `${handler.distribution} ${handler.version}`, `isolation ${handler.isolation}`];
  if (handler.python) parts.push(handler.python);
  if (handler.last_exit) parts.push(`last exit ${handler.last_exit.kind}: ${handler.last_exit.text}, ${clock(handler.last_exit.at)}`);
  return parts.filter(Boolean).join(" · ");
}

function latencyRows({ first_chunk: firstChunk, response }) {
  return [["First chunk", firstChunk], ["Whole response", response]].flatMap(([label, figures]) => [
    element("dt", {}, label),
    element(
      "dd",
      {},
      figures.count
        ? `mean ${duration(figures.mean)}, half within ${bound(figures.p50_at_most)}, 99 % within ${bound(figures.p99_at_most)} (${figures.count})`
        : NONE,
    ),
  ]);
}

function bound(seconds) {
  return seconds === null ? "more than 2 min" : duration(seconds);
}

function workerRow(worker, largest) {
  const memory = element("td");
  if (worker.worker_pss) {
    const bar = element("meter", { max: largest, value: worker.worker_pss });
    bar.setAttribute("aria-label", `PSS of generation ${worker.generation}`);
    memory.append(bar, ` ${size(worker.worker_pss)}`);
  }
  const step = worker.isRunning ? "running" : worker.kind;
  const facts = worker.isRunning
    ? [`started for ${worker.started_for}`, `${worker.in_flight} in flight`]
    : [worker.cause, worker.exit, worker.error, worker.seconds ? `ready after ${duration(worker.seconds)}` : "", worker.given_back ? `${size(worker.given_back)} released` : ""];
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, String(worker.generation ?? NONE)),
    element("td", {}, worker.at ? clock(worker.at) : "now"),
    element("td", {}, step),
    memory,
    element("td", {}, facts.filter(Boolean).join(", ")),
  );
}

function settingRow({ key, value, source }) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return element(
    "tr",
    { className: source === "default" ? "faint" : "" },
    element("th", { scope: "row" }, key),
    element("td", {}, value === null ? NONE : text),
    element("td", {}, source),
  );
}
