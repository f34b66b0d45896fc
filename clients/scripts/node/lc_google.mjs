// LangChain JS on Google's REST API.
import { ChatGoogle } from "@langchain/google";
import { HANDLER, KEY, URL } from "./harness.mjs";
import { check } from "./langchain_checks.mjs";

const options = { model: HANDLER, apiKey: KEY, endpoint: URL, maxRetries: 0 };
const thinkingConfig = { includeThoughts: true, thinkingBudget: 2000 };
await check(new ChatGoogle(options), new ChatGoogle({ ...options, thinkingConfig }));
