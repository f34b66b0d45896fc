// openai (npm), chat completions.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { expect, fails, first, HANDLER, joined, KEY, PDF, PNG, run, URL, WEATHER } from "./harness.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, maxRetries: 0 });

const body = (content, options) => ({ model: HANDLER, messages: [{ role: "user", content }], ...options });
const chat = (content, options) => client.chat.completions.create(body(content, options));
const attach = async (part) => expect((await chat([{ type: "text", text: "see" }, part])).choices[0].message.content);

async function tools() {
  const weather = { name: "weather", parameters: WEATHER, parse: JSON.parse, function: ({ city }) => `rain in ${city}` };
  const options = { stream: true, tools: [{ type: "function", function: weather }] };
  expect(await client.chat.completions.runTools(body("task-call", options)).finalContent());
}

async function structured() {
  const response_format = zodResponseFormat(z.object({ city: z.string() }), "city");
  const { choices } = await client.chat.completions.parse(body("where", { response_format }));
  expect(choices[0].message.parsed.city, "Paris");
}

await run({
  plain: async () => expect((await chat("hi")).choices[0].message.content),
  stream: async () => expect(await joined(await chat("hi", { stream: true }), (chunk) => chunk.choices[0].delta.content)),
  tools,
  structured,
  image: () => attach({ type: "image_url", image_url: { url: `data:image/png;base64,${PNG}` } }),
  document: () =>
    attach({ type: "file", file: { filename: "a.pdf", file_data: `data:application/pdf;base64,${PDF}` } }),
  reasoning: async () => expect((await chat("hi", { reasoning_effort: "low" })).choices[0].message.content),
  caching: async () =>
    expect((await chat("hi", { prompt_cache_key: "k" })).usage.prompt_tokens_details.cached_tokens, "4321"),
  errors: () => fails(() => chat("task-fail")),
  cancel: async () => first(await chat("task-slow", { stream: true })),
});
