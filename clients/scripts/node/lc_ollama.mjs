// LangChain JS on ollama.
import { ChatOllama } from "@langchain/ollama";
import { HANDLER, PNG, URL } from "./harness.mjs";
import { check } from "./langchain_checks.mjs";

const options = { model: HANDLER, baseUrl: URL, maxRetries: 0 };
await check(new ChatOllama(options), new ChatOllama({ ...options, think: true }), {
  hasDocuments: false,
  image: { type: "image_url", image_url: `data:image/png;base64,${PNG}` },
});
