// Ties it together: signs in, asks for the overview every two seconds while somebody looks, follows the events.

import { call, Refused, restore, signIn, signOut, Unreachable } from "./api.js";
import { Chart } from "./chart.js";
import { Events } from "./events.js";
import { put, size } from "./format.js";
import { Handlers } from "./handlers.js";
import { TryIt } from "./try.js";
import { Verify } from "./verify.js";

const INTERVAL = 2000;
const LONGEST_PAUSE = 8000;

const find = (id) => document.getElementById(id);
const chart = new Chart(find("chart"), find("legend"));
const handlers = new Handlers(find("handlers"), find("receipts"), refresh);
const events = new Events(find("events"), find("filter-handler"), find("filter-kind"), find("events-paused"));
const tryIt = new TryIt(find);
const verify = new Verify(find("verify"));

let timer = null;
let pause = INTERVAL;
let run = null;
let asking = null;
let signedIn = false;

function connection(state, text) {
  const shown = find("connection");
  shown.dataset.state = state;
  put(shown, text);
}

function away(error) {
  if (!(error instanceof Unreachable || error instanceof Refused)) throw error; // a defect of this page
  connection("away", `${error.message}; trying again`);
}

function showSignIn(reason) {
  signedIn = false;
  clearTimeout(timer);
  events.stop();
  find("dashboard").hidden = true;
  find("sign-out").hidden = true;
  find("sign-in").hidden = false;
  find("sign-in-reason").hidden = !reason;
  put(find("sign-in-reason"), reason || "");
  connection("waiting", "not signed in");
  find("token").focus();
}

function showDashboard() {
  signedIn = true;
  find("sign-in").hidden = true;
  find("dashboard").hidden = false;
  find("sign-out").hidden = false;
  pause = INTERVAL;
  return refresh();
}

function refresh() {
  clearTimeout(timer);
  asking ??= ask().finally(() => {
    asking = null;
    if (signedIn && !document.hidden) timer = setTimeout(refresh, pause);
  });
  return asking;
}

async function ask() {
  try {
    const overview = await call("GET", `overview?since=${chart.since}`);
    if (overview.run !== run) {
      const first = chart.since === 0;
      run = overview.run;
      chart.reset();
      if (!first) return void (await ask());
    }
    show(overview);
    events.start(onEvent);
    pause = INTERVAL;
  } catch (error) {
    if (error instanceof Refused && (error.status === 401 || error.status === 403)) {
      showSignIn("Your session has ended, or the host was started anew.");
    } else {
      away(error);
      pause = Math.min(LONGEST_PAUSE, pause * 1.5);
    }
  }
}

function show(overview) {
  const { memory } = overview;
  connection("live", overview.draining ? "draining: new work is refused" : `live, version ${overview.version}`);
  chart.show(overview);
  handlers.show(overview.handlers);
  find("no-handlers").hidden = overview.handlers.length > 0;
  tryIt.show(overview.handlers);
  verify.show(overview.verify);
  const reserved = memory.reserved ? `, ${size(memory.reserved)} reserved` : "";
  put(find("memory-now"), `${size(memory.used)} of ${size(memory.usable)}${reserved} (limit ${size(memory.limit)}, ${memory.limit_source})`);
  const next = memory.evict_next.map((one) => `${one.handler} (${size(one.size)})`);
  put(
    find("next-eviction"),
    next.length ? `Unloaded next, if memory is short: ${next.join(", then ")}.` : "No handler is idle: none could be unloaded for another.",
  );
}

// A step in a handler's life is shown at once, and not with the next question.
function onEvent(event) {
  if (event.handler && event.kind !== "audit" && signedIn && !document.hidden) {
    clearTimeout(timer);
    timer = setTimeout(refresh, 100);
  }
}

find("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = find("token");
  const failed = find("sign-in-error");
  const button = event.submitter;
  failed.hidden = true;
  button.disabled = true;
  try {
    await signIn(field.value);
    field.value = "";
    await showDashboard();
  } catch (error) {
    put(failed, error.status === 401 ? "This is not the admin token." : `Not signed in: ${error.message}`);
    failed.hidden = false;
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
    handlers.receipt(`sign out: ${error.message}`, true);
  }
});

find("rescan").addEventListener("click", async () => {
  try {
    const report = await call("POST", "rescan", { body: "{}" });
    const changes = ["added", "removed", "changed"].filter((what) => report[what].length).map((what) => `${what} ${report[what].join(", ")}`);
    handlers.receipt(`rescan: ${changes.join("; ") || "nothing has changed"}`);
  } catch (error) {
    handlers.receipt(`rescan: ${error.message}`, true);
  }
  await refresh();
});

find("ranges").addEventListener("click", (event) => {
  if (!event.target.dataset.seconds) return;
  for (const button of find("ranges").children) button.setAttribute("aria-pressed", button === event.target);
  chart.range(Number(event.target.dataset.seconds));
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && signedIn) refresh();
});

async function begin() {
  try {
    if (await restore()) await showDashboard();
    else showSignIn();
  } catch (error) {
    away(error);
    setTimeout(begin, INTERVAL);
  }
}

begin();
