// The checks of LangChain JS, which has one interface for all providers.
import { HumanMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { z } from "zod";
import { expect, fails, first, joined, PDF, PNG, run } from "./harness.mjs";

const City = z.object({ city: z.string() });
const IMAGE = { type: "image", mimeType: "image/png", data: PNG };
const weather = tool(({ city }) => `rain in ${city}`, {
  name: "weather",
  description: "Return the weather.",
  schema: City,
});

/** Run all checks with a chat model, and with one that reasons. */
export async function check(model, thinking, { hasDocuments = true, image = IMAGE } = {}) {
  const ask = async (content) => (await model.invoke(content)).text;

  async function attach(block) {
    const content = [{ type: "text", text: "see" }, block];
    expect(await ask([new HumanMessage(block.type === "image_url" ? { content } : { contentBlocks: content })]));
  }

  async function tools() {
    const bound = thinking.bindTools([weather]);
    const messages = [new HumanMessage("task-call")];
    let message;
    for await (const chunk of await bound.stream(messages)) message = message?.concat(chunk) ?? chunk;
    messages.push(message, await weather.invoke(message.tool_calls[0]));
    expect((await bound.invoke(messages)).text);
  }

  await run({
    plain: async () => expect(await ask("hi")),
    stream: async () => expect(await joined(await model.stream("hi"), (chunk) => chunk.text)),
    tools,
    structured: async () => expect((await model.withStructuredOutput(City).invoke("where")).city, "Paris"),
    image: () => attach(image),
    ...(hasDocuments && {
      document: () => attach({ type: "file", mimeType: "application/pdf", data: PDF, metadata: { filename: "a.pdf" } }),
      caching: async () => expect((await model.invoke("hi")).usage_metadata.input_token_details, "4321"),
    }),
    reasoning: async () => expect((await thinking.invoke("hi")).text),
    errors: () => fails(() => ask("task-fail")),
    cancel: async () => first(await model.stream("task-slow")),
  });
}
