// The live log of events. The browser reconnects by itself and requests the events that it has missed.

import { clock, element, size } from "./format.js";

const MAX_EVENTS = 500;
const HIDDEN = new Set(["id", "at", "kind", "handler", "host", "fork_server", "workers", "limit", "limit_source", "request_id"]);
const SIZES = new Set(["pss", "given_back", "worker_pss"]);

export class Events {
  constructor(list, handler, kind, paused) {
    this.list = list;
    this.handler = handler;
    this.kind = kind;
    this.paused = paused;
    this.events = [];
    this.source = null;
    for (const filter of [handler, kind, paused]) filter.addEventListener("change", () => this.draw());
  }

  start(onEvent) {
    if (this.source && this.source.readyState !== EventSource.CLOSED) return;
    this.events = [];
    this.list.replaceChildren();
    this.source = new EventSource("events?replay=200");
    const receive = (message) => {
      const event = JSON.parse(message.data);
      this.add(event);
      onEvent(event);
    };
    this.source.addEventListener("message", receive);
    this.source.addEventListener("gap", receive);
  }

  stop() {
    this.source?.close();
    this.source = null;
  }

  add(event) {
    this.events.unshift(event);
    this.events.length = Math.min(this.events.length, MAX_EVENTS);
    this.addOption(this.kind, event.kind);
    if (event.handler) this.addOption(this.handler, event.handler);
    if (this.paused.checked || !this.matches(event)) return;
    const scrollTop = this.list.scrollTop;
    this.list.prepend(row(event));
    if (scrollTop > 0) this.list.scrollTop = scrollTop + this.list.firstChild.offsetHeight; // keep a scrolled reader in place
    while (this.list.children.length > MAX_EVENTS) this.list.lastChild.remove();
  }

  addOption(filter, value) {
    if (![...filter.options].some((option) => option.value === value)) filter.append(element("option", { value }, value));
  }

  matches(event) {
    return (!this.handler.value || event.handler === this.handler.value) && (!this.kind.value || event.kind === this.kind.value);
  }

  draw() {
    if (this.paused.checked) return;
    this.list.replaceChildren(...this.events.filter((event) => this.matches(event)).map(row));
  }
}

function row(event) {
  if (event.kind === "gap") {
    const lost = event.lost === null ? "events may be missing" : `${event.lost} events are missing`;
    return element("li", { data: { kind: "gap" } }, `${lost}: ${event.reason}`);
  }
  const figures = Object.entries(event)
    .filter(([name, value]) => !HIDDEN.has(name) && value !== null)
    .map(([name, value]) => `${name}=${formatValue(name, value)}`);
  const isFailure = ["crash", "hang", "out of memory"].includes(event.cause) || (event.kind === "audit" && !["ok", "accepted"].includes(event.result));
  return element(
    "li",
    { className: isFailure ? "bad" : "", data: { kind: event.kind } },
    element("time", { dateTime: event.at }, clock(event.at)),
    element("b", {}, event.kind),
    [event.handler, ...figures].filter(Boolean).join(" "),
  );
}

function formatValue(name, value) {
  if (SIZES.has(name)) return size(value);
  if (typeof value === "number" && !Number.isInteger(value)) return value.toFixed(3);
  if (typeof value === "object" || /\s/.test(value)) return JSON.stringify(value);
  return String(value);
}
