// The table of handlers, and what can be done to each. Rows stay where they are: a focus in them survives.

import { call, Refused } from "./api.js";
import { clock, duration, element, NONE, put, share, size } from "./format.js";

const WITHOUT_WORKER = new Set(["cold", "failed", "invalid", "incompatible", "conflict", "blocked", "missing-secret"]);
const CANNOT_RUN = new Set(["invalid", "incompatible", "conflict", "blocked", "missing-secret"]);
const RECEIPTS = 20;
const FIGURES = [
  ["Gen.", (one) => String(one.generation || NONE)],
  ["PSS", (one) => size(one.pss)],
  ["Learned", (one) => size(one.learned_pss)],
  ["In flight", (one) => String(one.in_flight)],
  ["Queued", (one) => String(one.queued)],
  ["Idle for", (one) => duration(one.idle_for)],
  ["Expires in", (one) => duration(one.expires_in)],
  ["Dispatches", (one) => String(one.dispatches)],
  ["Errors", (one) => share(one.error_rate)],
  ["Median", (one) => duration(one.median_seconds)],
  ["99 %", (one) => duration(one.p99_seconds)],
];

export class Handlers {
  constructor(table, receipts, changed) {
    this.body = table.tBodies[0];
    this.receipts = receipts;
    this.changed = changed;
    this.rows = new Map();
  }

  show(handlers) {
    for (const name of [...this.rows.keys()]) {
      if (!handlers.some((one) => one.name === name)) {
        this.rows.get(name).row.remove();
        this.rows.delete(name);
      }
    }
    handlers.forEach((one, place) => {
      const known = this.rows.get(one.name) || this.add(one.name);
      if (this.body.children[place] !== known.row) this.body.insertBefore(known.row, this.body.children[place] || null);
      this.fill(known, one);
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
    const button = (label, act) => {
      const made = element("button", { type: "button", "aria-label": `${label} ${name}`, data: { action: label.toLowerCase() } }, label);
      made.addEventListener("click", () => this.act(name, made, act));
      return made;
    };
    const load = button("Load", () => ["load", {}]);
    const unload = button("Unload", () => ["unload", { mode: mode.value }]);
    const reload = button("Reload", () => ["reload", { mode: mode.value }]);
    const pin = button("Pin", () => [pin.dataset.pinned === "true" ? "unpin" : "pin", null]);
    const row = element(
      "tr",
      { data: { handler: name } },
      element("td", { className: "name" }, element("b", {}, name), title),
      element("td", { className: "state" }, state, reason),
      element("td", { className: "actions" }, element("div", {}, load, unload, mode, reload, pin)),
      ...figures,
      exit,
    );
    const known = { row, title, state, reason, figures, exit, load, unload, reload, mode, pin, busy: false };
    this.rows.set(name, known);
    return known;
  }

  fill(known, one) {
    put(known.title, one.title || `${one.distribution} ${one.version}`);
    put(known.state, one.state);
    known.state.dataset.state = one.state;
    put(known.reason, one.reason || "");
    FIGURES.forEach(([, text], place) => {
      const figure = text(one);
      put(known.figures[place], figure);
      known.figures[place].toggleAttribute("data-empty", figure === NONE);
    });
    const last = one.last_exit;
    put(known.exit, last ? `${last.kind}: ${last.text}, ${clock(last.at)}` : "");
    known.exit.toggleAttribute("data-empty", !last);
    const without = WITHOUT_WORKER.has(one.state);
    known.load.disabled = known.busy || !without || CANNOT_RUN.has(one.state);
    known.unload.disabled = known.busy || without;
    known.reload.disabled = known.busy || without;
    known.pin.disabled = known.busy;
    known.pin.dataset.pinned = one.pin;
    known.pin.setAttribute("aria-pressed", one.pin);
    put(known.pin, one.pin ? "Pinned" : "Pin");
  }

  async act(name, button, what) {
    const [action, options] = what();
    const known = this.rows.get(name);
    known.busy = true;
    for (const each of [known.load, known.unload, known.reload, known.pin]) each.disabled = true;
    try {
      const path = `handlers/${encodeURIComponent(name)}/${action}`;
      this.receipt(receiptOf(name, action, await call("POST", path, { body: JSON.stringify(options || {}) })));
    } catch (error) {
      this.receipt(`${action} ${name}: ${error.message}${error instanceof Refused ? ` (${error.code})` : ""}`, true);
      if (error instanceof Refused && error.status === 401) this.changed(error);
    } finally {
      known.busy = false;
      await this.changed();
      if (!button.disabled && document.activeElement === document.body) button.focus();
    }
  }

  receipt(text, failed = false) {
    this.receipts.prepend(element("li", { className: failed ? "error" : "" }, `${clock(Date.now())} ${text}`));
    while (this.receipts.children.length > RECEIPTS) this.receipts.lastChild.remove();
  }
}

function receiptOf(name, action, receipt) {
  if (action === "load") {
    if (receipt.already) return `${name} was active already, generation ${receipt.generation}`;
    const taken = size(Math.max(0, receipt.pss_after - receipt.pss_before));
    return `${name} activated: generation ${receipt.generation}, ${taken} taken in ${duration(receipt.activate_seconds)}`;
  }
  if (action === "pin" || action === "unpin") return `${name} is ${receipt.pin ? "pinned" : "not pinned any more"}`;
  if (receipt.generation === null) return `${name} had no worker`;
  const given = `${size(receipt.bytes_given_back)} given back in ${duration(receipt.seconds)}`;
  return `${name} unloaded: generation ${receipt.generation}, ${given}, ${receipt.drained} drained, ${receipt.killed} killed`;
}
