// A form that dispatches to a handler and shows its response and timing.

import { ApiError, send } from "./api.js";
import { exampleRequest } from "./example.js";
import { element } from "./format.js";

const MAX_CHARACTERS = 200000; // of the response on the page

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
    this.output = find("try-response");
    this.optionsKey = "";
    this.body.value = this.example = exampleRequest();
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.dispatch();
    });
    this.stop.addEventListener("click", () => this.abort?.abort());
    this.handler.addEventListener("change", () => this.listOperations());
    this.operation.addEventListener("change", () => this.suggestRequest());
    this.body.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
  }

  show(handlers) {
    this.handlers = handlers;
    const names = handlers.map((handler) => handler.name);
    const key = JSON.stringify([names, handlers.map((handler) => (handler.operations || []).map((operation) => [operation.name, Boolean(operation.input_schema)]))]);
    if (key === this.optionsKey) return;
    this.optionsKey = key;
    const selected = this.handler.value;
    this.handler.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    if (names.includes(selected)) this.handler.value = selected;
    this.listOperations();
  }

  listOperations() {
    const handler = this.handlers.find(({ name }) => name === this.handler.value);
    const names = (handler?.operations || [{ name: "chat" }]).map((operation) => operation.name);
    this.operations.replaceChildren(...names.map((name) => element("option", { value: name })));
    if (handler?.operations && !names.includes(this.operation.value) && names.length) this.operation.value = names[0];
    this.suggestRequest();
  }

  // Show a request that fits the operation, unless the operator has changed the one before.
  suggestRequest() {
    if (this.body.value !== this.example) return;
    const handler = this.handlers.find(({ name }) => name === this.handler.value);
    const operation = handler?.operations?.find(({ name }) => name === this.operation.value);
    this.body.value = this.example = exampleRequest(operation || { name: this.operation.value });
  }

  async dispatch() {
    this.abort = new AbortController();
    this.button.disabled = true;
    this.stop.disabled = false;
    this.output.textContent = "";
    this.output.dataset.state = "running";
    this.timing.textContent = "waiting";
    try {
      const path = `handlers/${encodeURIComponent(this.handler.value)}/dispatch/${encodeURIComponent(this.operation.value)}`;
      const headers = this.stream.checked ? { Accept: "text/event-stream" } : {};
      const response = await send("POST", path, { body: this.body.value, headers, signal: this.abort.signal });
      this.timing.textContent = formatTiming(response);
      if (this.stream.checked) await this.read(response);
      else this.output.textContent = JSON.stringify(await response.json(), null, 2);
      if (this.output.dataset.state === "running") this.output.dataset.state = "done";
    } catch (error) {
      this.showError(error);
    } finally {
      this.button.disabled = false;
      this.stop.disabled = true;
    }
  }

  async read(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let isComplete = false;
    for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
      const blocks = (rest + chunk.value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) isComplete = this.showEvent(block) || isComplete;
    }
    if (!isComplete) this.showError(new Error("the response ended early"));
  }

  // Show one event; return whether it was the last one.
  showEvent(block) {
    const fields = Object.fromEntries(
      block.split("\n").filter((line) => line && !line.startsWith(":")).map((line) => line.split(/: (.*)/s)),
    );
    if (fields.data === undefined) return false;
    if (fields.event === "end") return true;
    const data = JSON.parse(fields.data);
    if (fields.event === "error") {
      this.showError(new ApiError(0, data.error, data.error.request_id));
      return true;
    }
    if (this.output.textContent.length < MAX_CHARACTERS) this.output.append(this.format(data));
    this.output.scrollTop = this.output.scrollHeight;
    return false;
  }

  // Return a chunk of text unchanged; model, finish reason and usage not at all; other data as JSON on its own line.
  format(data) {
    if (typeof data?.text === "string") return data.text;
    if (["model", "finish", "usage"].includes(data?.type)) return "";
    const { textContent: before } = this.output;
    return `${before && !before.endsWith("\n") ? "\n" : ""}${JSON.stringify(data)}\n`;
  }

  showError(error) {
    this.output.dataset.state = "failed";
    const isAbort = error.name === "AbortError";
    const text = isAbort ? "stopped" : `${error.message}${error.code ? ` (${error.code}, request ${error.requestId})` : ""}`;
    this.output.append(this.output.textContent ? `\n\n${text}` : text);
    if (this.timing.textContent === "waiting") this.timing.textContent = "";
  }
}

function formatTiming(response) {
  const timing = response.headers.get("Server-Timing") || "";
  const parts = [...timing.matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, ms]) => `${name} ${Number(ms).toFixed(1)} ms`);
  return [`${response.status}`, ...parts].join(" · ");
}
