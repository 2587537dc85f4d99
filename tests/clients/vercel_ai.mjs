// Vercel's ai with its OpenAI-compatible provider: text, streams, objects, tools, embeddings, errors, leaving.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import { DIRECT, REAL, SCRIPTED, equal, idle, model, ok, raises, run } from "./checks.mjs";

const provider = (base) =>
    createOpenAICompatible({ name: "tandem", baseURL: `${base}/v1`, supportsStructuredOutputs: true, includeUsage: true });
const real = provider(REAL)(await model(REAL)), fixed = provider(SCRIPTED)(await model(SCRIPTED));
const short = { model: real, prompt: "Say hi.", maxOutputTokens: 12, temperature: 0, maxRetries: 0 };
const city = jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] });
const tools = {
    get_weather: tool({ description: "of a city", inputSchema: city, execute: async () => "21 degrees" }),
};
const asking = { model: fixed, prompt: "What is the weather in Oslo?", tools, stopWhen: stepCountIs(3), maxRetries: 0 };

async function text() {
    const a = await generateText(short);
    ok(a.text && a.usage.outputTokens > 0, a);
}

async function streamEqualsWhole() {
    let text = "";
    for await (const part of streamText(short).textStream)
        text += part;
    equal(text, (await generateText(short)).text);
}

async function object() {
    const schema = jsonSchema({
        type: "object", properties: { fruit: { type: "boolean" } }, required: ["fruit"], additionalProperties: false,
    });
    const a = await generateText({ ...short, maxOutputTokens: 40, output: Output.object({ schema }) });
    equal(typeof a.output.fruit, "boolean");
}

async function toolsThereAndBack() {
    const a = await generateText(asking);
    equal([a.text, a.steps.length], ["It is 21 degrees in Oslo.", 2]);
    equal(a.steps[0].toolCalls[0].input, { city: "Oslo" });
}

async function toolsStreamed() {
    equal(await streamText(asking).text, "It is 21 degrees in Oslo.");
}

async function reasoning() {
    const a = await generateText({ model: fixed, prompt: "two and two?", maxRetries: 0 });
    equal([a.reasoningText, a.text], ["Two and two.", "Four."]);
}

async function embeddings() {
    const model_ = provider(REAL).textEmbeddingModel(real.modelId);
    equal((await embedMany({ model: model_, values: ["a cat", "a dog"] })).embeddings.length, 2);
}

async function errors() {
    const e = await raises(APICallError, generateText({ ...short, model: provider(REAL)("no-such-model") }));
    equal(e.statusCode, 404);
}

async function leavingEndsTheWork() {
    const leave = new AbortController();
    const endless = { ...short, model: provider(DIRECT)(real.modelId), maxOutputTokens: 3000,
        abortSignal: leave.signal, providerOptions: { tandem: { ignore_eos: true } }, onError: () => {} };
    for await (const _ of streamText(endless).textStream) {
        leave.abort();
        break;
    }
    await idle();
}

await run("ai, JavaScript", [text, streamEqualsWhole, object, toolsThereAndBack, toolsStreamed, reasoning, embeddings,
    errors, leavingEndsTheWork]);
