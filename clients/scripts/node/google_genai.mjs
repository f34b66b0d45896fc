// @google/genai (npm).
import { GoogleGenAI } from "@google/genai";
import { expect, fails, first, HANDLER, joined, KEY, PDF, PNG, run, URL, WEATHER } from "./harness.mjs";

const { models } = new GoogleGenAI({ apiKey: KEY, httpOptions: { baseUrl: URL } });
const THINKING = { thinkingConfig: { includeThoughts: true, thinkingBudget: 2000 } };

const body = (contents, config) => ({ model: HANDLER, contents, config });
const send = (contents, config) => models.generateContent(body(contents, config));
const attach = async (mimeType, data) => expect((await send(["see", { inlineData: { mimeType, data } }])).text);

async function tools() {
  const config = { ...THINKING, tools: [{ functionDeclarations: [{ name: "weather", parametersJsonSchema: WEATHER }] }] };
  const contents = [{ role: "user", parts: [{ text: "task-call" }] }];
  const { functionCalls, candidates } = await send(contents, config);
  const [{ id, name }] = functionCalls;
  const functionResponse = { id, name, response: { output: "rain" } };
  contents.push(candidates[0].content, { role: "user", parts: [{ functionResponse }] });
  expect((await send(contents, config)).text);
}

async function structured() {
  const config = { responseMimeType: "application/json", responseJsonSchema: WEATHER };
  expect(JSON.parse((await send("where", config)).text).city, "Paris");
}

await run({
  plain: async () => expect((await send("hi")).text),
  stream: async () => expect(await joined(await models.generateContentStream(body("hi")), (chunk) => chunk.text)),
  tools,
  structured,
  image: () => attach("image/png", PNG),
  document: () => attach("application/pdf", PDF),
  reasoning: async () => expect((await send("hi", THINKING)).candidates[0].content.parts[0], "I think"),
  caching: async () => expect((await send("hi")).usageMetadata.cachedContentTokenCount, "4321"),
  errors: () => fails(() => send("task-fail")),
  cancel: async () => first(await models.generateContentStream(body("task-slow"))),
});
