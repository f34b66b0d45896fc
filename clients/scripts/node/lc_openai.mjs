// LangChain JS on openai.
import { ChatOpenAI } from "@langchain/openai";
import { HANDLER, KEY, URL } from "./harness.mjs";
import { check } from "./langchain_checks.mjs";

const options = { model: HANDLER, apiKey: KEY, maxRetries: 0, configuration: { baseURL: `${URL}/v1` } };
const reasoning = { effort: "low", summary: "auto" };
await check(new ChatOpenAI(options), new ChatOpenAI({ ...options, useResponsesApi: true, reasoning }));
