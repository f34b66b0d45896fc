// ollama (npm).
import { Ollama } from "ollama";
import { expect, fails, first, HANDLER, joined, PNG, run, URL, WEATHER } from "./harness.mjs";

const client = new Ollama({ host: URL });

const ask = (messages, options) => client.chat({ model: HANDLER, messages, ...options });
const chat = (content, options) => ask([{ role: "user", content }], options);

async function tools() {
  const weather = { name: "weather", description: "The weather.", parameters: WEATHER };
  const options = { tools: [{ type: "function", function: weather }] };
  const messages = [{ role: "user", content: "task-call" }];
  const { message } = await ask(messages, options);
  messages.push(message, { role: "tool", tool_name: message.tool_calls[0].function.name, content: "rain" });
  expect((await ask(messages, options)).message.content);
}

await run({
  plain: async () => expect((await chat("hi")).message.content),
  stream: async () => expect(await joined(await chat("hi", { stream: true }), (chunk) => chunk.message.content)),
  tools,
  structured: async () => expect(JSON.parse((await chat("where", { format: WEATHER })).message.content).city, "Paris"),
  image: async () => expect((await ask([{ role: "user", content: "see", images: [PNG] }])).message.content),
  reasoning: async () => expect((await chat("hi", { think: "low" })).message.content),
  errors: () => fails(() => chat("task-fail")),
  cancel: async () => first(await chat("task-slow", { stream: true })),
});
