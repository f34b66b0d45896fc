// Client of the admin routes. Paths are relative to the page, because the host may be mounted below any path.

let csrf = null;

// An error response of the host.
export class ApiError extends Error {
  constructor(status, error, requestId) {
    super(error.message);
    this.status = status;
    this.code = error.code;
    this.requestId = requestId;
  }
}

// No response, or an incomplete one.
export class Unreachable extends Error {}

export async function send(method, path, { body, headers, signal } = {}) {
  const allHeaders = { ...headers };
  if (body !== undefined) allHeaders["Content-Type"] = "application/json";
  if (method !== "GET" && csrf !== null) allHeaders["X-CSRF-Token"] = csrf;
  let response;
  try {
    response = await fetch(path, { method, headers: allHeaders, body, signal, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("the host does not respond");
  }
  if (!response.ok) throw await toError(response);
  return response;
}

export async function call(method, path, options = {}) {
  const response = await send(method, path, options);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("the response ended early");
  }
}

async function toError(response) {
  let error;
  try {
    error = (await response.json()).error;
  } catch {
    error = null;
  }
  return new ApiError(
    response.status,
    error || { code: "unknown", message: `${response.status} ${response.statusText}` },
    response.headers.get("X-Request-ID"),
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
