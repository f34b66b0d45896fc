// A box to ask a handler something: the answer as it comes, and where its time went.

import { Refused, send } from "./api.js";
import { element } from "./format.js";

const EXAMPLE = '{"messages": [{"role": "user", "content": "Say hello."}]}';
const MOST = 200000; // characters of an answer that are shown

export class TryIt {
  constructor(find) {
    this.form = find("try-form");
    this.handler = find("try-handler");
    this.operation = find("try-operation");
    this.operations = find("try-operations");
    this.body = find("try-body");
    this.stream = find("try-stream");
    this.button = find("try-send");
    this.stop = find("try-stop");
    this.timing = find("try-timing");
    this.answer = find("try-answer");
    this.known = "";
    this.body.value = EXAMPLE;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    this.stop.addEventListener("click", () => this.abort?.abort());
    this.handler.addEventListener("change", () => this.offer());
    this.body.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
  }

  show(handlers) {
    this.handlers = handlers;
    const names = handlers.map((one) => one.name);
    const key = JSON.stringify([names, handlers.map((one) => (one.operations || []).map((each) => each.name))]);
    if (key === this.known) return;
    this.known = key;
    const chosen = this.handler.value;
    this.handler.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    if (names.includes(chosen)) this.handler.value = chosen;
    this.offer();
  }

  offer() {
    const one = this.handlers.find((each) => each.name === this.handler.value);
    const names = (one?.operations || [{ name: "chat" }]).map((each) => each.name);
    this.operations.replaceChildren(...names.map((name) => element("option", { value: name })));
    if (one?.operations && !names.includes(this.operation.value) && names.length) this.operation.value = names[0];
  }

  async ask() {
    this.abort = new AbortController();
    this.button.disabled = true;
    this.stop.disabled = false;
    this.answer.textContent = "";
    this.answer.dataset.state = "running";
    this.timing.textContent = "waiting";
    try {
      const path = `handlers/${encodeURIComponent(this.handler.value)}/dispatch/${encodeURIComponent(this.operation.value)}`;
      const headers = this.stream.checked ? { Accept: "text/event-stream" } : {};
      const answer = await send("POST", path, { body: this.body.value, headers, signal: this.abort.signal });
      this.timing.textContent = timingOf(answer);
      if (this.stream.checked) await this.read(answer);
      else this.answer.textContent = JSON.stringify(await answer.json(), null, 2);
      if (this.answer.dataset.state === "running") this.answer.dataset.state = "done";
    } catch (error) {
      this.failed(error);
    } finally {
      this.button.disabled = false;
      this.stop.disabled = true;
    }
  }

  async read(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let ended = false;
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      const blocks = (rest + piece.value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) ended = this.take(block) || ended;
    }
    if (!ended) this.failed(new Error("the answer broke off"));
  }

  // Shows one event; returns whether it was the last one.
  take(block) {
    const fields = Object.fromEntries(
      block.split("\n").filter((line) => line && !line.startsWith(":")).map((line) => line.split(/: (.*)/s)),
    );
    if (fields.data === undefined) return false;
    if (fields.event === "end") return true;
    const data = JSON.parse(fields.data);
    if (fields.event === "error") {
      this.failed(new Refused(0, data.error, data.error.request_id));
      return true;
    }
    if (this.answer.textContent.length < MOST) this.answer.append(this.shown(data));
    this.answer.scrollTop = this.answer.scrollHeight;
    return false;
  }

  // A piece of a text as it is, all else as JSON in a line of its own.
  shown(data) {
    if (typeof data?.text === "string") return data.text;
    if (data?.finish_reason) return "";
    const { textContent: before } = this.answer;
    return `${before && !before.endsWith("\n") ? "\n" : ""}${JSON.stringify(data)}\n`;
  }

  failed(error) {
    this.answer.dataset.state = "failed";
    const stopped = error.name === "AbortError";
    const text = stopped ? "stopped" : `${error.message}${error.code ? ` (${error.code}, request ${error.requestId})` : ""}`;
    this.answer.append(this.answer.textContent ? `\n\n${text}` : text);
    if (this.timing.textContent === "waiting") this.timing.textContent = "";
  }
}

function timingOf(answer) {
  const timing = answer.headers.get("Server-Timing") || "";
  const parts = [...timing.matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, ms]) => `${name} ${Number(ms).toFixed(1)} ms`);
  return [`${answer.status}`, ...parts].join(" · ");
}
