// Vercel's ai: the arguments are the major version and the provider.
import { z } from "zod";
import { ARGUMENTS, expect, fails, first, HANDLER, joined, KEY, PDF, PNG, run, URL } from "./harness.mjs";

const [major, provider] = ARGUMENTS;
const { generateText, Output, stepCountIs, streamText, tool } = await load("ai7", "ai");

const PROVIDERS = {
  openai: {
    model: async () => (await openai()).responses(HANDLER),
    // The host keeps no items for the next turn.
    always: { openai: { store: false } },
    thinking: { openai: { store: false, forceReasoning: true, reasoningEffort: "low", reasoningSummary: "auto" } },
  },
  "openai.chat": {
    model: async () => (await openai()).chat(HANDLER),
    thinking: { openai: { forceReasoning: true, reasoningEffort: "low" } },
    hidesReasoning: true,
  },
  "openai-compatible": {
    model: async () => {
      const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible", "ai6-openai-compatible");
      const options = { name: "host", baseURL: `${URL}/v1`, apiKey: KEY };
      return createOpenAICompatible({ ...options, includeUsage: true, supportsStructuredOutputs: true })(HANDLER);
    },
    thinking: { host: { reasoningEffort: "low" } },
  },
  anthropic: {
    model: async () => {
      const { createAnthropic } = await load("@ai-sdk/anthropic", "ai6-anthropic");
      return createAnthropic({ baseURL: `${URL}/v1`, apiKey: KEY })(HANDLER);
    },
    thinking: { anthropic: { thinking: { type: "enabled", budgetTokens: 2000 } } },
  },
  google: {
    model: async () => {
      const { createGoogleGenerativeAI } = await load("@ai-sdk/google", "ai6-google");
      return createGoogleGenerativeAI({ baseURL: `${URL}/v1beta`, apiKey: KEY })(HANDLER);
    },
    thinking: { google: { thinkingConfig: { includeThoughts: true, thinkingBudget: 2000 } } },
  },
};
const { always, thinking, hidesReasoning, ...chosen } = PROVIDERS[provider];
const settings = { model: await chosen.model(), maxRetries: 0, providerOptions: always };

function load(newest, sixth) {
  return import(major === "6" ? sixth : newest);
}

async function openai() {
  const { createOpenAI } = await load("@ai-sdk/openai", "ai6-openai");
  return createOpenAI({ baseURL: `${URL}/v1`, apiKey: KEY });
}

const ask = (prompt, options) => generateText({ ...settings, prompt, ...options });
const stream = (prompt, options) => streamText({ ...settings, prompt, onError: () => {}, ...options });

async function tools() {
  const weather = tool({
    description: "Return the weather.",
    inputSchema: z.object({ city: z.string() }),
    execute: ({ city }) => `rain in ${city}`,
  });
  const result = stream("task-call", { tools: { weather }, stopWhen: stepCountIs(2), providerOptions: thinking });
  expect(await joined(result.textStream));
}

async function attach(mediaType, data, filename) {
  const content = [{ type: "text", text: "see" }, { type: "file", mediaType, data, filename }];
  expect((await generateText({ ...settings, messages: [{ role: "user", content }] })).text);
}

async function structured() {
  const output = Output.object({ schema: z.object({ city: z.string() }) });
  expect((await ask("where", { output })).output.city, "Paris");
}

await run({
  plain: async () => expect((await ask("hi")).text),
  stream: async () => expect(await joined(stream("hi").textStream)),
  tools,
  structured,
  image: () => attach("image/png", PNG, "a.png"),
  document: () => attach("application/pdf", PDF, "a.pdf"),
  reasoning: async () => {
    const { text, reasoningText } = await ask("hi", { providerOptions: thinking });
    expect(hidesReasoning ? text : reasoningText, hidesReasoning ? undefined : "I think");
  },
  caching: async () => expect((await ask("hi")).usage.inputTokenDetails.cacheReadTokens, "4321"),
  errors: () => fails(() => ask("task-fail")),
  cancel: () => first(stream("task-slow").textStream),
});
