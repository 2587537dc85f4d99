// Ollama's JavaScript client: what it can read about the server, chat, tools, formats, errors, leaving.
import { Ollama } from "ollama";
import { DIRECT, REAL, SCRIPTED, equal, idle, model, ok, raises, run } from "./checks.mjs";

const real = new Ollama({ host: REAL }), fixed = new Ollama({ host: SCRIPTED });
const MODEL = await model(REAL), FIXED = await model(SCRIPTED);
const messages = [{ role: "user", content: "Say hi." }];
const weather = [{ role: "user", content: "What is the weather in Oslo?" }];
const short = { model: MODEL, messages, options: { temperature: 0, num_predict: 12 } };
const tools = [{ type: "function", function: {
    name: "get_weather", description: "of a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } } }];

async function whatThereIs() {
    ok((await real.list()).models.some((m) => m.model === MODEL), "not listed");
    equal((await real.show({ model: MODEL })).details.format, "gguf");
    ok((await real.ps()).models.some((m) => m.model === MODEL), "not loaded");
}

async function chat() {
    const a = await real.chat(short);
    ok(a.message.content && a.done && a.eval_count > 0, a);
}

async function streamEqualsWhole() {
    let text = "";
    for await (const part of await real.chat({ ...short, stream: true }))
        text += part.message.content;
    equal(text, (await real.chat(short)).message.content);
}

async function structuredOutput() {
    const format = { type: "object", properties: { fruit: { type: "boolean" } }, required: ["fruit"],
        additionalProperties: false };
    const a = await real.chat({ ...short, format, options: { temperature: 0, num_predict: 40 } });
    equal(typeof JSON.parse(a.message.content).fruit, "boolean");
}

async function toolsThereAndBack() {
    const a = await fixed.chat({ model: FIXED, messages: weather, tools });
    const call = a.message.tool_calls[0].function;
    equal([call.name, call.arguments], ["get_weather", { city: "Oslo" }]);
    const turn = [...weather, a.message, { role: "tool", tool_name: call.name, content: "21 degrees" }];
    equal((await fixed.chat({ model: FIXED, messages: turn, tools })).message.content, "It is 21 degrees in Oslo.");
}

async function errors() {
    const e = await raises(Error, real.chat({ ...short, model: "no-such-model" }));
    equal(e.status_code, 404);
}

async function leavingEndsTheWork() {
    const s = await new Ollama({ host: DIRECT }).chat({ ...short, options: { num_predict: 3000 }, stream: true });
    try {
        for await (const _ of s)
            s.abort();
    } catch (e) {
        equal(e.name, "AbortError");
    }
    await idle();
}

await run("ollama, JavaScript", [whatThereIs, chat, streamEqualsWhole, structuredOutput, toolsThereAndBack, errors,
    leavingEndsTheWork]);
