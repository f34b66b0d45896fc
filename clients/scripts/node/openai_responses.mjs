// openai (npm), responses.
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { expect, fails, first, HANDLER, joined, KEY, PDF, PNG, run, URL, WEATHER } from "./harness.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, maxRetries: 0 });
const THINKING = { reasoning: { effort: "low", summary: "auto" } };

const body = (input, options) => ({ model: HANDLER, input, store: false, ...options });
const ask = (input, options) => client.responses.create(body(input, options));
const attach = async (part) => expect((await ask([{ role: "user", content: [part] }])).output_text);

async function tools() {
  const tool = { type: "function", name: "weather", parameters: WEATHER, strict: false };
  const options = { ...THINKING, tools: [tool], include: ["reasoning.encrypted_content"] };
  const input = [{ role: "user", content: "task-call" }];
  const { output } = await client.responses.stream(body(input, options)).finalResponse();
  const { call_id } = output.find((item) => item.type === "function_call");
  const result = { type: "function_call_output", call_id, output: "rain" };
  expect((await ask([...input, ...output, result], options)).output_text);
}

async function structured() {
  const text = { format: zodTextFormat(z.object({ city: z.string() }), "city") };
  expect((await client.responses.parse(body("where", { text }))).output_parsed.city, "Paris");
}

await run({
  plain: async () => expect((await ask("hi")).output_text),
  stream: async () =>
    expect(
      await joined(await ask("hi", { stream: true }), (event) =>
        event.type === "response.output_text.delta" ? event.delta : "",
      ),
    ),
  tools,
  structured,
  image: () => attach({ type: "input_image", detail: "auto", image_url: `data:image/png;base64,${PNG}` }),
  document: () => attach({ type: "input_file", filename: "a.pdf", file_data: `data:application/pdf;base64,${PDF}` }),
  reasoning: async () => expect((await ask("hi", THINKING)).output, "I think"),
  caching: async () => expect((await ask("hi", { prompt_cache_key: "k" })).usage.input_tokens_details.cached_tokens, "4321"),
  errors: () => fails(() => ask("task-fail")),
  cancel: async () => first(await ask("task-slow", { stream: true })),
});
