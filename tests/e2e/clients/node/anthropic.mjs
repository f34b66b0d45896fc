// The SDK of Anthropic as a client: node anthropic.mjs URL KEY MODEL REFUSED; prints what it has seen as JSON.
// REFUSED is a JSON object with a field that the host refuses.
import Anthropic from "@anthropic-ai/sdk";

const [baseURL, apiKey, model, refused] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const ask = { model, max_tokens: 64, messages: [{ role: "user", content: "Hello!" }] };
const tools = [{ name: "look", input_schema: { type: "object", properties: { at: { type: "string" } } } }];

async function errorOf(work) {
  try {
    await work();
  } catch (error) {
    return { name: error.constructor.name, status: error.status ?? null, type: error.type, code: error.errorCode, id: error.requestID };
  }
  throw new Error("there was no error");
}

const whole = await client.messages.create({ ...ask, system: "Be brief." });
const stream = client.messages.stream(ask);
const texts = [];
stream.on("text", (text) => texts.push(text));
const streamed = await stream.finalMessage();
const called = await client.messages.stream({ ...ask, tools, tool_choice: { type: "any" } }).finalMessage();
const models = [];
for await (const found of client.models.list()) models.push(found.id);

const errors = {
  model: await errorOf(() => client.messages.create({ ...ask, model: "nobody" })),
  input: await errorOf(() => client.messages.create({ ...ask, ...JSON.parse(refused) })),
  key: await errorOf(() => new Anthropic({ baseURL, apiKey: "wrong", maxRetries: 0 }).messages.create(ask)),
  upstream: await errorOf(() => client.messages.create({ ...ask, model: `${model}/limited` })),
  stream: await errorOf(() => client.messages.stream({ ...ask, model: `${model}/broken` }).finalMessage()),
};

console.log(JSON.stringify({ whole, streamed, texts, called, models, errors }));
