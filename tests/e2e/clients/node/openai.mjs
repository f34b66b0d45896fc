// The SDK of OpenAI as a client, of chat completions and of responses: node openai.mjs URL KEY; prints what it has seen.
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Hello!" }];
const parameters = { type: "object", properties: { at: { type: "string" } }, required: ["at"] };

async function errorOf(work) {
  try {
    await work();
  } catch (error) {
    const { message, status = null, code = null, param = null } = error;
    return { name: error.constructor.name, message, status, code, param };
  }
  throw new Error("there was no error");
}

async function textOf(stream) {
  const pieces = [];
  for await (const chunk of stream) if (chunk.choices[0]?.delta?.content) pieces.push(chunk.choices[0].delta.content);
  return pieces;
}

async function eventsOf(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

const chat = (more) => client.chat.completions.create({ model: "gpt_a", messages, ...more });
const respond = (more) => client.responses.create({ model: "gpt_a", input: "Hello!", ...more });

const tools = [{ type: "function", function: { name: "look", parameters } }];
const chats = {
  whole: await chat({ max_completion_tokens: 9 }),
  pieces: await textOf(await chat({ stream: true, stream_options: { include_usage: true } })),
  called: await chat({ model: "gpt_a/tools", tools }),
  streamedCall: await client.chat.completions.stream({ model: "gpt_a/tools", messages, tools }).finalChatCompletion(),
  errors: {
    model: await errorOf(() => chat({ model: "nobody" })),
    input: await errorOf(() => chat({ model: "gpt_a/silent", modalities: ["text", "audio"] })),
    key: await errorOf(() => new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 }).models.list()),
    upstream: await errorOf(() => chat({ model: "gpt_a/limited" })),
    stream: await errorOf(async () => textOf(await chat({ model: "gpt_a/broken", stream: true }))),
  },
};

const functions = [{ type: "function", name: "look", parameters, strict: false }];
const events = await eventsOf(await respond({ stream: true }));
const call = await respond({ model: "gpt_a/tools", tools: functions });
const result = { type: "function_call_output", call_id: call.output.at(-1).call_id, output: "a star" };
// A translated stream ends with an event, a native one with an error.
const lastEvent = async () => (await eventsOf(await respond({ model: "gpt_a/broken", stream: true }))).at(-1);
const broken = await lastEvent().catch((error) => ({ type: "error", message: error.message }));
const responses = {
  whole: await respond({ instructions: "Be brief." }),
  types: events.map((event) => event.type),
  last: events.at(-1).response,
  helper: (await client.responses.stream({ model: "gpt_a", input: "Hello!" }).finalResponse()).output_text,
  call,
  answered: await respond({ input: [{ role: "user", content: "Look!" }, ...call.output, result], tools: functions }),
  broken,
  errors: {
    model: await errorOf(() => respond({ model: "nobody" })),
    input: await errorOf(() => respond({ previous_response_id: "resp_1" })),
    upstream: await errorOf(() => respond({ model: "gpt_a/limited", stream: true })),
  },
};

const models = [];
for await (const found of client.models.list()) models.push(found.id);

console.log(JSON.stringify({ chats, responses, models }));
