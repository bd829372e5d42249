// @anthropic-ai/sdk, the official SDK.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import {
  AGENT, ANSWER, CALL, CALLER, CHAT_MODEL, HI, I_WON, Mood, PLACE, SAID, SAY, WEATHER_TOLD, caught, run, servers,
} from "./checks.mjs";

const client = (url) => new Anthropic({ baseURL: url, apiKey: "any", maxRetries: 0 });
const real = client(servers.real);
const scripted = client(servers.scripted);

const SHORT = { model: CHAT_MODEL, messages: HI, max_tokens: 8, temperature: 0 };
const SAY_A_CALL = [{ role: "user", content: CALL }];
const TOOLS = [{ name: "get_weather", description: "The weather", input_schema: PLACE }];

function checkCall(reply) {
  assert.equal(reply.stop_reason, "tool_use");
  assert.deepEqual(reply.content.map(({ type, name, input }) => ({ type, name, input })), [
    { type: "tool_use", name: "get_weather", input: { city: "Oslo" } },
  ]);
}

run({
  async chat() {
    const reply = await real.messages.create({ ...SHORT, system: "Be brief." });
    assert(reply.content[0].text);
    assert(["end_turn", "max_tokens"].includes(reply.stop_reason));
    assert(reply.usage.output_tokens <= 8);
  },

  async stream() {
    const texts = [];
    const messages = [{ role: "user", content: SAY }];
    const stream = scripted.messages.stream({ model: AGENT, messages, max_tokens: 64 });
    const reply = await stream.on("text", (text) => texts.push(text)).finalMessage();
    assert(texts.length > 1);
    assert.equal(texts.join(""), SAID);
    assert.equal(reply.content[0].text, SAID);
    assert.equal(reply.stop_reason, "end_turn");
    assert.equal(reply.usage.output_tokens, 3);
  },

  async tool() {
    const request = { model: AGENT, tools: TOOLS, max_tokens: 64 };
    const reply = await scripted.messages.create({ ...request, messages: SAY_A_CALL });
    checkCall(reply);
    const result = { type: "tool_result", tool_use_id: reply.content[0].id, content: WEATHER_TOLD };
    const turns = [{ role: "assistant", content: reply.content }, { role: "user", content: [result] }];
    const answer = await scripted.messages.create({ ...request, messages: [...SAY_A_CALL, ...turns] });
    assert.equal(answer.content[0].text, `${ANSWER}get_weather`);
  },

  async tool_in_a_stream() {
    const pieces = [];
    const stream = scripted.messages.stream({ model: AGENT, messages: SAY_A_CALL, tools: TOOLS, max_tokens: 64 });
    stream.on("inputJson", (piece) => pieces.push(piece));
    checkCall(await stream.finalMessage());
    assert.deepEqual(JSON.parse(pieces.join("")), { city: "Oslo" });
  },

  async tool_that_must_be_called() {
    for (const choice of [{ type: "any" }, { type: "tool", name: "get_weather" }]) {
      const tool_choice = { ...choice, disable_parallel_tool_use: true };
      const request = { model: CALLER, messages: HI, tools: TOOLS, max_tokens: 64, temperature: 0 };
      const reply = await real.messages.create({ ...request, tool_choice });
      const [call] = reply.content.filter((block) => block.type === "tool_use");
      assert(["Oslo", "Rome"].includes(call.input.city));
    }
  },

  async thinking() {
    const messages = [{ role: "user", content: "say:<think>|Let me |see.|</think>|All |fine." }];
    const thinking = { type: "enabled", budget_tokens: 1024 };
    const stream = scripted.messages.stream({ model: AGENT, messages, max_tokens: 2048, thinking });
    const [thought, text] = (await stream.finalMessage()).content;
    assert.equal(thought.thinking, "Let me see.");
    assert.equal(text.text, "All fine.");
  },

  async schema() {
    const output_config = { format: zodOutputFormat(Mood) };
    const request = { model: CHAT_MODEL, messages: I_WON, max_tokens: 64, temperature: 0 };
    Mood.parse((await real.messages.parse({ ...request, output_config })).parsed_output);
  },

  async count_tokens() {
    const count = await real.messages.countTokens({ model: CHAT_MODEL, messages: HI });
    assert.equal(count.input_tokens, (await real.messages.create(SHORT)).usage.input_tokens);
  },

  async error() {
    const error = await caught(Anthropic.NotFoundError, () => real.messages.create({ ...SHORT, model: "nope" }));
    assert.deepEqual(error.error.error, { type: "not_found_error", message: "model 'nope' not found" });
    assert.equal(error.requestID, error.error.request_id);
  },

  async error_in_a_stream() {
    const messages = [{ role: "user", content: "break:2" }];
    const stream = scripted.messages.stream({ model: AGENT, messages, max_tokens: 64 });
    const error = await caught(Anthropic.APIError, () => stream.finalMessage());
    assert(error.message.includes("broke as told"));
  },
});
