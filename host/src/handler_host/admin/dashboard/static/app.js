// The page: signs in, fetches the overview every two seconds while the page is visible, follows the events.

import { ApiError, call, restore, signIn, signOut, Unreachable } from "./api.js";
import { Chart } from "./chart.js";
import { Details } from "./details.js";
import { Events } from "./events.js";
import { Failures } from "./failures.js";
import { setText, size } from "./format.js";
import { Handlers } from "./handlers.js";
import { TryIt } from "./try.js";
import { Usage } from "./usage.js";
import { Verify } from "./verify.js";

const INTERVAL_MS = 2000;
const MAX_BACKOFF_MS = 8000;

const find = (id) => document.getElementById(id);
const chart = new Chart(find("chart"), find("legend"));
const handlers = new Handlers(find("handlers"), find("receipts"), refresh);
const events = new Events(find("events"), find("filter-handler"), find("filter-kind"), find("events-paused"));
const failures = new Failures(find);
const details = new Details(find);
const tryIt = new TryIt(find);
const usage = new Usage(find("usage-section"), find("usage"));
const verify = new Verify(find("verify"));

let timer = null;
let delay = INTERVAL_MS;
let run = null;
let pending = null;
let isSignedIn = false;

function showConnection(state, text) {
  const target = find("connection");
  target.dataset.state = state;
  setText(target, text);
}

function showLost(error) {
  if (!(error instanceof Unreachable || error instanceof ApiError)) throw error; // a defect of the page
  showConnection("away", `${error.message}; retrying`);
}

function showSignIn(reason) {
  isSignedIn = false;
  clearTimeout(timer);
  events.stop();
  find("dashboard").hidden = true;
  find("sign-out").hidden = true;
  find("sign-in").hidden = false;
  find("sign-in-reason").hidden = !reason;
  setText(find("sign-in-reason"), reason || "");
  showConnection("waiting", "not signed in");
  find("token").focus();
}

function showDashboard() {
  isSignedIn = true;
  find("sign-in").hidden = true;
  find("dashboard").hidden = false;
  find("sign-out").hidden = false;
  delay = INTERVAL_MS;
  return refresh();
}

function refresh() {
  clearTimeout(timer);
  pending ??= fetchOverview().finally(() => {
    pending = null;
    if (isSignedIn && !document.hidden) timer = setTimeout(refresh, delay);
  });
  return pending;
}

async function fetchOverview() {
  try {
    const overview = await call("GET", `overview?since=${chart.since}`);
    if (overview.run !== run) {
      const isFirst = chart.since === 0;
      run = overview.run;
      chart.reset();
      events.stop();
      if (!isFirst) return void (await fetchOverview());
    }
    show(overview);
    events.start(onEvent);
    delay = INTERVAL_MS;
  } catch (error) {
    if (error instanceof ApiError && (error.status === 401 || error.status === 403)) {
      showSignIn("Your session has expired, or the host has restarted.");
    } else {
      showLost(error);
      delay = Math.min(MAX_BACKOFF_MS, delay * 1.5);
    }
  }
}

function show(overview) {
  const { memory } = overview;
  if (overview.draining) showConnection("draining", "draining: the host rejects new work");
  else showConnection("live", `live, version ${overview.version}`);
  chart.show(overview);
  handlers.show(overview.handlers);
  find("no-handlers").hidden = overview.handlers.length > 0;
  failures.show(overview.failures);
  details.show(overview.handlers);
  tryIt.show(overview.handlers);
  usage.show(overview.usage);
  verify.show(overview.verify);
  const reserved = memory.reserved ? `, ${size(memory.reserved)} reserved` : "";
  const droppable = memory.droppable ? `, of it ${size(memory.droppable)} the kernel can drop` : "";
  setText(find("memory-now"), `${size(memory.used)} of ${size(memory.usable)}${droppable}${reserved} (limit ${size(memory.limit)}, ${memory.limit_source})`);
  const withSeveralWorkers = new Set(overview.handlers.filter((handler) => handler.max_workers > 1).map(({ name }) => name));
  const nameWorker = ({ handler, generation }) => (withSeveralWorkers.has(handler) ? `${handler} generation ${generation}` : handler);
  const next = memory.evict_next.map((eviction) => `${nameWorker(eviction)} (${size(eviction.size)})`);
  setText(
    find("next-eviction"),
    next.length ? `Next evictions when memory is short: ${next.join(", then ")}.` : "No handler is idle, so none can be evicted.",
  );
}

// Show a step of a handler at once, not at the next interval.
function onEvent(event) {
  if (event.handler && event.kind !== "audit" && isSignedIn && !document.hidden) {
    clearTimeout(timer);
    timer = setTimeout(refresh, 100);
  }
}

find("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = find("token");
  const message = find("sign-in-error");
  const button = event.submitter;
  message.hidden = true;
  button.disabled = true;
  try {
    await signIn(field.value);
    field.value = "";
    await showDashboard();
  } catch (error) {
    setText(message, error.status === 401 ? "This is not the admin token." : `Sign-in failed: ${error.message}`);
    message.hidden = false;
    field.select();
  } finally {
    button.disabled = false;
  }
});

find("sign-out").addEventListener("click", async () => {
  try {
    await signOut();
    showSignIn();
  } catch (error) {
    handlers.addReceipt(`sign out: ${error.message}`, true);
  }
});

find("rescan").addEventListener("click", async () => {
  try {
    const report = await call("POST", "rescan", { body: "{}" });
    const changes = ["added", "removed", "changed"].filter((kind) => report[kind].length).map((kind) => `${kind} ${report[kind].join(", ")}`);
    handlers.addReceipt(`rescan: ${changes.join("; ") || "no changes"}`);
  } catch (error) {
    handlers.addReceipt(`rescan: ${error.message}`, true);
  }
  await refresh();
});

find("ranges").addEventListener("click", (event) => {
  if (!event.target.dataset.seconds) return;
  for (const button of find("ranges").children) button.setAttribute("aria-pressed", button === event.target);
  chart.range(Number(event.target.dataset.seconds));
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && isSignedIn) refresh();
});

async function start() {
  try {
    if (await restore()) await showDashboard();
    else showSignIn();
  } catch (error) {
    showLost(error);
    setTimeout(start, INTERVAL_MS);
  }
}

start();
