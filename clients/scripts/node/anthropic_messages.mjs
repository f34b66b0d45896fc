// @anthropic-ai/sdk (npm).
import Anthropic from "@anthropic-ai/sdk";
import { CITY, expect, fails, first, HANDLER, KEY, PDF, PNG, run, URL, WEATHER } from "./harness.mjs";

const client = new Anthropic({ baseURL: URL, apiKey: KEY, maxRetries: 0 });
const THINKING = { thinking: { type: "enabled", budget_tokens: 2000 } };

const body = (content, options) => ({
  model: HANDLER,
  max_tokens: 4000,
  messages: [{ role: "user", content }],
  ...options,
});
const send = (content, options) => client.messages.create(body(content, options));

async function attach(type, media_type, data) {
  expect((await send([{ type, source: { type: "base64", media_type, data } }])).content.at(-1).text);
}

async function tools() {
  const options = { ...THINKING, tools: [{ name: "weather", input_schema: WEATHER }] };
  const request = body("task-call", options);
  const { content } = await client.messages.stream(request).finalMessage();
  const { id } = content.find((block) => block.type === "tool_use");
  const result = { type: "tool_result", tool_use_id: id, content: "rain" };
  request.messages.push({ role: "assistant", content }, { role: "user", content: [result] });
  expect((await client.messages.create(request)).content.at(-1).text);
}

async function structured() {
  const output_config = { format: { type: "json_schema", schema: CITY } };
  expect((await client.messages.parse(body("where", { output_config }))).parsed_output ?? "", "Paris");
}

await run({
  plain: async () => expect((await send("hi")).content[0].text),
  stream: async () => expect(await client.messages.stream(body("hi")).finalText()),
  tools,
  structured,
  image: () => attach("image", "image/png", PNG),
  document: () => attach("document", "application/pdf", PDF),
  reasoning: async () => expect((await send("hi", THINKING)).content[0].thinking, "I think"),
  caching: async () =>
    expect(
      (await send([{ type: "text", text: "hi", cache_control: { type: "ephemeral" } }])).usage.cache_read_input_tokens,
      "4321",
    ),
  errors: () => fails(() => send("task-fail")),
  cancel: async () => first(await send("task-slow", { stream: true })),
});
