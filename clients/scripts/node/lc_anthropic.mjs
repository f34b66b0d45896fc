// LangChain JS on @anthropic-ai/sdk.
import { ChatAnthropic } from "@langchain/anthropic";
import { HANDLER, KEY, URL } from "./harness.mjs";
import { check } from "./langchain_checks.mjs";

const options = { model: HANDLER, apiKey: KEY, anthropicApiUrl: URL, maxRetries: 0, maxTokens: 4000 };
const thinking = { type: "enabled", budget_tokens: 2000 };
await check(new ChatAnthropic(options), new ChatAnthropic({ ...options, thinking }));
