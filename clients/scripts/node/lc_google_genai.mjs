// LangChain JS on @google/generative-ai.
import { ChatGoogleGenerativeAI } from "@langchain/google-genai";
import { HANDLER, KEY, URL } from "./harness.mjs";
import { check } from "./langchain_checks.mjs";

const options = { model: HANDLER, apiKey: KEY, baseUrl: URL, maxRetries: 0 };
const thinkingConfig = { includeThoughts: true, thinkingBudget: 2000 };
await check(new ChatGoogleGenerativeAI(options), new ChatGoogleGenerativeAI({ ...options, thinkingConfig }));
