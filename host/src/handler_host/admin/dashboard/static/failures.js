// The last failed requests, and what is known of one: the host keeps neither secrets nor prompts.

import { call } from "./api.js";
import { clock, duration, element } from "./format.js";

// The rows of a list of failures; those that are open stay open when it changes.
export class FailureList {
  constructor(list, empty) {
    this.list = list;
    this.empty = empty;
    this.key = "";
  }

  show(failures) {
    const key = failures.map((failure) => failure.request_id + failure.at).join();
    if (key === this.key) return;
    this.key = key;
    const open = new Set([...this.list.querySelectorAll("details[open]")].map((box) => box.dataset.key));
    this.list.replaceChildren(...failures.map((failure) => element("li", {}, box(failure, open))));
    this.empty.hidden = failures.length > 0;
  }
}

export class Failures {
  constructor(find) {
    this.list = new FailureList(find("failures"), find("no-failures"));
    this.form = find("why-form");
    this.id = find("why-id");
    this.result = find("why-result");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.explain();
    });
  }

  show(failures) {
    this.list.show(failures);
  }

  async explain() {
    const id = this.id.value.trim();
    if (!id) return;
    try {
      const { failures } = await call("GET", `failures/${encodeURIComponent(id)}`);
      this.result.replaceChildren(...failures.map(facts));
    } catch (error) {
      this.result.replaceChildren(element("p", { className: "error" }, error.message));
    }
  }
}

function box(failure, open) {
  const key = failure.request_id + failure.at;
  return element(
    "details",
    { data: { key }, open: open.has(key) },
    element(
      "summary",
      {},
      element("time", { dateTime: failure.at }, clock(failure.at)),
      element("b", {}, failure.code),
      [failure.handler, failure.message].filter(Boolean).join(": "),
    ),
    facts(failure),
  );
}

function facts(failure) {
  const times = { queue: failure.queue_s, activation: failure.activate_s, "first chunk": failure.first_chunk_s, total: failure.total_s };
  const attempts = failure.attempts.length > 1 ? failure.attempts : [];
  const rows = {
    request: failure.request_id,
    at: failure.at,
    error: `${failure.code} (status ${failure.status})`,
    message: failure.message,
    cause: failure.cause,
    route: `${failure.method} ${failure.route} (${failure.protocol})`,
    handler: failure.handler,
    model: failure.model,
    consumer: failure.consumer,
    client: failure.client,
    times: Object.entries(times)
      .filter(([, value]) => value !== null)
      .map(([name, value]) => `${name} ${duration(value)}`)
      .join(", "),
    attempts: attempts.map(([code, , message, , handler]) => `${handler}: ${code} (${message})`).join("; "),
  };
  const terms = Object.entries(rows).filter(([, value]) => value);
  return element("dl", {}, ...terms.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}
