// The admin routes, relative to the page: the host may be mounted anywhere.

let csrf = null;

export class Refused extends Error {
  constructor(status, error, requestId) {
    super(error.message);
    this.status = status;
    this.code = error.code;
    this.requestId = requestId;
  }
}

export class Unreachable extends Error {}

export async function send(method, path, { body, headers, signal } = {}) {
  const all = { ...headers };
  if (body !== undefined) all["Content-Type"] = "application/json";
  if (method !== "GET" && csrf !== null) all["X-CSRF-Token"] = csrf;
  let answer;
  try {
    answer = await fetch(path, { method, headers: all, body, signal, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("the host does not answer");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

export async function call(method, path, options = {}) {
  const answer = await send(method, path, options);
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("the answer broke off");
  }
}

async function refusal(answer) {
  let error;
  try {
    error = (await answer.json()).error;
  } catch {
    error = null;
  }
  return new Refused(
    answer.status,
    error || { code: "unknown", message: `${answer.status} ${answer.statusText}` },
    answer.headers.get("X-Request-ID"),
  );
}

export async function restore() {
  const session = await call("GET", "session");
  csrf = session.csrf ?? null;
  return session.signed_in;
}

export async function signIn(token) {
  csrf = (await call("POST", "session", { body: JSON.stringify({ token }) })).csrf;
}

export async function signOut() {
  await call("DELETE", "session");
  csrf = null;
}
