// What the scripts of this directory share, as ../harness.py: each gets the URL of the host, a handler and arguments
// of its own, and prints its columns.

export const [URL, HANDLER, ...ARGUMENTS] = process.argv.slice(2);
export const KEY = "a-consumer-key-of-some-length";
const FINAL = "7391";
const TOO_LONG = "the prompt has 300000 tokens, 8877 more than the context";
export const PNG =
  "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR4nGP4xcWFFTEMLQkAnE5DgcPp0KUAAAAASUVORK5CYII=";
export const PDF = Buffer.from("%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n").toString("base64");
export const WEATHER = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
export const CITY = { ...WEATHER, additionalProperties: false };

/** Run the check of each column, print the results as JSON, and end the process with its open streams. */
export async function run(checks) {
  const results = {};
  for (const [column, check] of Object.entries(checks)) {
    try {
      await check();
      results[column] = "ok";
    } catch (error) {
      results[column] = `${error?.name}: ${text(error)}`.slice(0, 300);
    }
  }
  process.stdout.write(`${JSON.stringify(results)}\n`, () => process.exit());
}

/** Fail if a text lacks a part. */
export function expect(value, part = FINAL) {
  const found = typeof value === "object" ? JSON.stringify(value) : String(value);
  if (!found.includes(part)) throw new Error(`'${part}' is not in '${found.slice(0, 200)}'`);
}

/** Fail if the call does not raise an error with the words of the provider. */
export async function fails(call) {
  try {
    await call();
  } catch (error) {
    expect(text(error), TOO_LONG);
    return;
  }
  throw new Error("no error");
}

/** Return the first item of a stream that has text, and leave the stream. */
export async function first(stream) {
  for await (const item of stream) return item;
  throw new Error("the stream is empty");
}

/** Return the texts of a stream, joined. */
export async function joined(stream, textOf = (item) => item) {
  let whole = "";
  for await (const item of stream) whole += textOf(item) ?? "";
  return whole;
}

function text(error) {
  return String(error?.message ?? error).replace(/\s+/g, " ");
}
