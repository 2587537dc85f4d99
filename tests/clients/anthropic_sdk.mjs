// Anthropic's JavaScript SDK: messages, streams, tools, thinking, counting, errors, leaving.
import Anthropic from "@anthropic-ai/sdk";
import { DIRECT, REAL, SCRIPTED, equal, idle, model, ok, raises, run } from "./checks.mjs";

const client = (base) => new Anthropic({ baseURL: base, apiKey: "none", maxRetries: 0, timeout: 100000 });
const real = client(REAL), fixed = client(SCRIPTED);
const MODEL = await model(REAL), FIXED = await model(SCRIPTED);
const messages = [{ role: "user", content: "Say hi." }];
const weather = [{ role: "user", content: "What is the weather in Oslo?" }];
const short = { model: MODEL, messages, max_tokens: 12, temperature: 0 };
const input_schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ name: "get_weather", description: "of a city", input_schema }];

async function message() {
    const a = await real.messages.create({ ...short, system: "Be brief." });
    ok(a.content[0].text && a.usage.output_tokens > 0, a);
}

async function streamEqualsWhole() {
    let text = "";
    const s = real.messages.stream(short).on("text", (t) => (text += t));
    equal((await s.finalMessage()).content[0].text, text);
    equal((await real.messages.create(short)).content[0].text, text);
}

async function toolsThereAndBack() {
    const a = await fixed.messages.create({ model: FIXED, max_tokens: 1000, messages: weather, tools });
    const call = a.content.find((b) => b.type === "tool_use");
    equal([a.stop_reason, call.name, call.input], ["tool_use", "get_weather", { city: "Oslo" }]);
    const turn = [...weather, { role: "assistant", content: a.content },
        { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "21 degrees" }] }];
    const b = await fixed.messages.create({ model: FIXED, max_tokens: 1000, messages: turn, tools });
    equal(b.content.at(-1).text, "It is 21 degrees in Oslo.");
}

async function toolsStreamed() {
    const s = fixed.messages.stream({ model: FIXED, max_tokens: 1000, messages: weather, tools });
    equal((await s.finalMessage()).content.find((b) => b.type === "tool_use").input, { city: "Oslo" });
}

async function thinking() {
    const a = await fixed.messages.create({
        model: FIXED, max_tokens: 2048, messages: [{ role: "user", content: "two and two?" }],
        thinking: { type: "enabled", budget_tokens: 1024 },
    });
    equal(a.content.map((b) => b[b.type]), ["Two and two.", "Four."]);
}

async function countTokens() {
    ok((await real.messages.countTokens({ model: MODEL, messages })).input_tokens > 0, "no tokens");
}

async function errors() {
    const e = await raises(Anthropic.NotFoundError, real.messages.create({ ...short, model: "no-such-model" }));
    equal(e.error.error.type, "not_found_error");
    await raises(Anthropic.BadRequestError, real.messages.create({ ...short, temperature: -4 }));
}

async function leavingEndsTheWork() {
    const s = client(DIRECT).messages.stream({ ...short, max_tokens: 3000, ignore_eos: true });
    for await (const e of s)
        if (e.type === "content_block_delta")
            break;
    s.abort();
    await idle();
}

await run("anthropic, JavaScript", [message, streamEqualsWhole, toolsThereAndBack, toolsStreamed, thinking, countTokens,
    errors, leavingEndsTheWork]);
