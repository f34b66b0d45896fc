// The table of handlers with their actions. Rows are updated in place, so that a focus in them survives.

import { ApiError, call } from "./api.js";
import { addressOf } from "./details.js";
import { clock, duration, element, NONE, setText, share, size } from "./format.js";

const WITHOUT_WORKER = new Set(["cold", "failed", "invalid", "incompatible", "conflict", "blocked", "missing-secret"]);
const CANNOT_RUN = new Set(["invalid", "incompatible", "conflict", "blocked", "missing-secret"]);
const MAX_RECEIPTS = 20;
const FIGURES = [
  ["Gen.", (handler) => String(handler.generation || NONE)],
  ["PSS", (handler) => size(handler.pss)],
  ["Learned", (handler) => size(handler.learned_pss)],
  ["In flight", (handler) => String(handler.in_flight)],
  ["Queued", (handler) => String(handler.queued)],
  ["Workers", formatWorkers],
  ["Idle for", (handler) => duration(handler.idle_for)],
  ["Expires in", (handler) => duration(handler.expires_in)],
  ["Dispatches", (handler) => String(handler.dispatches)],
  ["Errors", (handler) => share(handler.error_rate)],
  ["Median", (handler) => duration(handler.median_seconds), "Median of the last 256 dispatches, from request to last byte, with the wait for an activation"],
  ["99\u00a0%", (handler) => duration(handler.p99_seconds), "99 % of the last 256 dispatches took at most this long, with the wait for an activation"],
];
const HEADINGS = [["Handler"], ["State"], ["Actions"], ...FIGURES.map(([label, , title]) => [label, title]), ["Last exit"]];

export class Handlers {
  constructor(table, receipts, refresh) {
    table.tHead.insertRow().append(...HEADINGS.map(([label, title = ""]) => element("th", { scope: "col", title }, label)));
    this.body = table.tBodies[0];
    this.receipts = receipts;
    this.refresh = refresh;
    this.rows = new Map();
  }

  show(handlers) {
    for (const name of [...this.rows.keys()]) {
      if (!handlers.some((handler) => handler.name === name)) {
        this.rows.get(name).row.remove();
        this.rows.delete(name);
      }
    }
    handlers.forEach((handler, index) => {
      const entry = this.rows.get(handler.name) || this.add(handler.name);
      if (this.body.children[index] !== entry.row) this.body.insertBefore(entry.row, this.body.children[index] || null);
      this.fill(entry, handler);
    });
  }

  add(name) {
    const title = element("small");
    const state = element("b");
    const reason = element("small");
    const figures = FIGURES.map(([label]) => element("td", { data: { label } }));
    const exit = element("td", { className: "exit", data: { label: "Last exit" } });
    const mode = element(
      "select",
      { "aria-label": `how to unload or reload ${name}` },
      element("option", { value: "drain" }, "drain"),
      element("option", { value: "if_idle" }, "if idle"),
      element("option", { value: "force" }, "force"),
    );
    const button = (label, request) => {
      const target = element("button", { type: "button", "aria-label": `${label} ${name}`, data: { action: label.toLowerCase() } }, label);
      target.addEventListener("click", () => this.act(name, target, request));
      return target;
    };
    const load = button("Load", () => ["load", {}]);
    const unload = button("Unload", () => ["unload", { mode: mode.value }]);
    const reload = button("Reload", () => ["reload", { mode: mode.value }]);
    const pin = button("Pin", () => [pin.dataset.pinned === "true" ? "unpin" : "pin", null]);
    const forget = button("Forget", () => ["forget", null]);
    forget.title = "discard the memory that was learned of this handler";
    const row = element(
      "tr",
      { data: { handler: name } },
      element("td", { className: "name" }, element("a", { href: addressOf(name) }, name), title),
      element("td", { className: "state" }, state, reason),
      element("td", { className: "actions" }, element("div", {}, load, unload, mode, reload, pin, forget)),
      ...figures,
      exit,
    );
    const entry = { row, title, state, reason, figures, exit, load, unload, reload, mode, pin, isBusy: false };
    this.rows.set(name, entry);
    return entry;
  }

  fill(entry, handler) {
    const hasNoWorker = WITHOUT_WORKER.has(handler.state);
    setText(entry.title, handler.title || `${handler.distribution} ${handler.version}`);
    setText(entry.state, handler.state);
    entry.state.dataset.state = handler.state;
    const last = handler.last_exit;
    const reason = last && last.text === handler.reason ? "" : handler.reason; // the last exit shows it
    setText(entry.reason, reason || (handler.pin && hasNoWorker ? "pinned: stays loaded once active" : ""));
    FIGURES.forEach(([, text], index) => {
      const figure = text(handler);
      setText(entry.figures[index], figure);
      entry.figures[index].toggleAttribute("data-empty", figure === NONE);
    });
    setText(entry.exit, last ? `${last.kind}: ${last.text}, ${clock(last.at)}` : "");
    entry.exit.toggleAttribute("data-empty", !last);
    entry.load.disabled = entry.isBusy || !hasNoWorker || CANNOT_RUN.has(handler.state);
    entry.unload.disabled = entry.isBusy || hasNoWorker;
    entry.reload.disabled = entry.isBusy || hasNoWorker;
    entry.pin.disabled = entry.isBusy;
    entry.pin.dataset.pinned = handler.pin;
    entry.pin.setAttribute("aria-pressed", handler.pin);
    setText(entry.pin, handler.pin ? "Pinned" : "Pin");
  }

  async act(name, button, request) {
    const [action, options] = request();
    const entry = this.rows.get(name);
    entry.isBusy = true;
    for (const control of [entry.load, entry.unload, entry.reload, entry.pin]) control.disabled = true;
    try {
      const path = `handlers/${encodeURIComponent(name)}/${action}`;
      this.addReceipt(formatReceipt(name, action, await call("POST", path, { body: JSON.stringify(options || {}) })));
    } catch (error) {
      this.addReceipt(`${action} ${name}: ${error.message}${error instanceof ApiError ? ` (${error.code})` : ""}`, true);
      if (error instanceof ApiError && error.status === 401) this.refresh(error);
    } finally {
      entry.isBusy = false;
      await this.refresh();
      if (!button.disabled && document.activeElement === document.body) button.focus();
    }
  }

  addReceipt(text, isError = false) {
    this.receipts.prepend(element("li", { className: isError ? "error" : "" }, `${clock(Date.now())} ${text}`));
    while (this.receipts.children.length > MAX_RECEIPTS) this.receipts.lastChild.remove();
  }
}

// With several workers, the dispatches in flight on each; with workers on other machines, which.
function formatWorkers(handler) {
  const places = new Set(handler.workers.map((worker) => worker.place).filter(Boolean));
  return formatWorkerCount(handler) + (places.size ? ` on ${[...places].join(", ")}` : "");
}

function formatWorkerCount(handler) {
  const workers = handler.workers;
  if (workers.length < 2) return handler.max_workers > 1 ? `${workers.length} of ${handler.max_workers}` : String(workers.length || NONE);
  return `${workers.length} of ${handler.max_workers}: ${workers.map((worker) => worker.in_flight).join(" + ")}`;
}

function formatReceipt(name, action, receipt) {
  if (action === "load") {
    if (receipt.already) return `${name} was already active, generation ${receipt.generation}`;
    const memory = size(Math.max(0, receipt.pss_after - receipt.pss_before));
    return `${name} activated: generation ${receipt.generation}, ${memory} more memory after ${duration(receipt.activate_seconds)}`;
  }
  if (action === "pin" || action === "unpin") return `${name} is ${receipt.pin ? "pinned" : "not pinned"}`;
  if (action === "forget") return `the memory learned of ${name} is discarded`;
  if (receipt.generation === null) return `${name} had no worker`;
  const released = `${size(receipt.bytes_given_back)} released in ${duration(receipt.seconds)}`;
  const what = receipt.workers > 1 ? `${receipt.workers} workers` : `generation ${receipt.generation}`;
  return `${name} unloaded: ${what}, ${released}, ${receipt.drained} drained, ${receipt.killed} killed`;
}
