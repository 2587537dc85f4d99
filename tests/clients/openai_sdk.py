"""OpenAI's Python SDK: chat, tools, structured output, responses, embeddings, errors, leaving."""

import json
import time
from typing import Literal

import openai
from checks import DIRECT, REAL, SCRIPTED, idle, model, picture, raises, run
from pydantic import BaseModel


def client(base):
    return openai.OpenAI(base_url=base + "/v1", api_key="none", max_retries=0, timeout=100)


real, fixed = client(REAL), client(SCRIPTED)
MODEL, FIXED = model(REAL), model(SCRIPTED)
HI = [{"role": "user", "content": "Say hi."}]
ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]
FRUIT = [{"role": "user", "content": "Is a tomato a fruit? Answer in JSON."}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "of a city", "parameters": PARAMETERS}}
FLAT = {"type": "function", "name": "get_weather", "description": "of a city", "parameters": PARAMETERS, "strict": False}


class Verdict(BaseModel):
    fruit: bool
    colour: Literal["red", "green", "blue"]
    seeds: Literal["few", "many"]


def chat():
    a = real.chat.completions.create(model=MODEL, messages=HI, max_tokens=12, temperature=0)
    assert a.choices[0].message.content and a.choices[0].message.role == "assistant", a
    assert a.usage.prompt_tokens > 0 and a.usage.total_tokens == a.usage.prompt_tokens + a.usage.completion_tokens, a


def stream_equals_whole():
    ask = dict(model=MODEL, messages=HI, max_tokens=12, temperature=0)
    chunks = list(real.chat.completions.create(stream=True, stream_options={"include_usage": True}, **ask))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == real.chat.completions.create(**ask).choices[0].message.content, text
    assert chunks[-1].usage.completion_tokens > 0 and chunks[-2].choices[0].finish_reason, chunks[-2:]


def two_answers_with_logprobs():
    a = real.chat.completions.create(model=MODEL, messages=HI, max_tokens=6, n=2, seed=3, logprobs=True, top_logprobs=3)
    assert [c.index for c in a.choices] == [0, 1], a
    for c in a.choices:
        assert len(c.logprobs.content) > 0, c
        for token in c.logprobs.content:
            assert token.logprob <= 0 and len(token.top_logprobs) == 3, token
    text = "".join(t.token for t in a.choices[0].logprobs.content)
    assert a.choices[0].message.content in text or text in a.choices[0].message.content, (text, a.choices[0])


def stop_ends_the_answer():
    ask = dict(model=MODEL, messages=HI, max_tokens=12, temperature=0)
    whole = real.chat.completions.create(**ask).choices[0].message.content
    cut = real.chat.completions.create(stop=[whole[3:6]], **ask).choices[0]
    assert cut.message.content == whole[:whole.index(whole[3:6])] and cut.finish_reason == "stop", (whole, cut)


def json_schema():
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": Verdict.model_json_schema()}}
    a = real.chat.completions.create(model=MODEL, messages=FRUIT, max_tokens=60, temperature=0, response_format=form)
    Verdict.model_validate_json(a.choices[0].message.content)


def json_object():
    a = real.chat.completions.create(model=MODEL, messages=FRUIT, max_tokens=40, temperature=0,
                                     response_format={"type": "json_object"})
    if a.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(a.choices[0].message.content), dict), a
    assert a.choices[0].message.content.lstrip().startswith("{"), a


def parse_into_a_class():
    a = real.chat.completions.parse(model=MODEL, messages=FRUIT, max_tokens=60, temperature=0, response_format=Verdict)
    assert isinstance(a.choices[0].message.parsed, Verdict), a


def completions():
    a = real.completions.create(model=MODEL, prompt="One, two,", max_tokens=8, temperature=0)
    parts = list(real.completions.create(model=MODEL, prompt="One, two,", max_tokens=8, temperature=0, stream=True))
    assert a.choices[0].text == "".join(p.choices[0].text for p in parts if p.choices), a


def tools_there_and_back():
    a = fixed.chat.completions.create(model=FIXED, messages=ASK, tools=[TOOL])
    call = a.choices[0].message.tool_calls[0]
    assert a.choices[0].finish_reason == "tool_calls" and call.function.name == "get_weather", a
    assert json.loads(call.function.arguments) == {"city": "Oslo"}, call
    turn = ASK + [a.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}]
    b = fixed.chat.completions.create(model=FIXED, messages=turn, tools=[TOOL])
    assert b.choices[0].message.content == "It is 21 degrees in Oslo.", b


def two_tool_calls():
    ask = [{"role": "user", "content": "The weather of Oslo and Rome?"}]
    a = fixed.chat.completions.create(model=FIXED, messages=ask, tools=[TOOL], parallel_tool_calls=True)
    cities = [json.loads(c.function.arguments)["city"] for c in a.choices[0].message.tool_calls]
    assert cities == ["Oslo", "Rome"] and len({c.id for c in a.choices[0].message.tool_calls}) == 2, a


def tools_streamed():
    name, arguments, ids, finish = "", "", set(), None
    for chunk in fixed.chat.completions.create(model=FIXED, messages=ASK, tools=[TOOL], stream=True):
        for call in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            name += call.function.name or ""
            arguments += call.function.arguments or ""
            ids |= {call.id} - {None}
        finish = chunk.choices[0].finish_reason or finish if chunk.choices else finish
    assert (name, json.loads(arguments), len(ids), finish) == ("get_weather", {"city": "Oslo"}, 1, "tool_calls")


def reasoning_apart_from_content():
    ask = [{"role": "user", "content": "two and two?"}]
    m = fixed.chat.completions.create(model=FIXED, messages=ask).choices[0].message
    assert m.content == "Four." and m.reasoning_content == "Two and two.", m


def responses():
    a = real.responses.create(model=MODEL, input="Say hi.", max_output_tokens=16, temperature=0)
    assert a.output_text and a.status in ("completed", "incomplete") and a.usage.output_tokens > 0, a


def responses_stream():
    kinds, text = [], ""
    for e in real.responses.create(model=MODEL, input="Say hi.", max_output_tokens=16, temperature=0, stream=True):
        kinds.append(e.type)
        text += e.delta if e.type == "response.output_text.delta" else ""
    assert kinds[:2] == ["response.created", "response.in_progress"], kinds
    assert kinds[-1] in ("response.completed", "response.incomplete"), kinds
    assert text == e.response.output_text and text, (text, e)


def responses_parse():
    a = real.responses.parse(model=MODEL, input=FRUIT, max_output_tokens=60, temperature=0, text_format=Verdict)
    assert isinstance(a.output_parsed, Verdict), a


def responses_tools_there_and_back():
    a = fixed.responses.create(model=FIXED, input=ASK, tools=[FLAT, {"type": "web_search"}], store=False)
    call = [o for o in a.output if o.type == "function_call"][0]
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Oslo"}), a
    turn = ASK + a.output + [{"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}]
    b = fixed.responses.create(model=FIXED, input=turn, tools=[FLAT])
    assert b.output_text == "It is 21 degrees in Oslo.", b


def images():
    url = "data:image/png;base64," + picture(0, 255, 0)
    text = "Repeat the word."
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "low"}}, {"type": "text", "text": text}]
    a = real.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}], max_tokens=8, temperature=0)
    assert "green" in a.choices[0].message.content, a
    parts = [{"type": "input_image", "image_url": url, "detail": "auto"}, {"type": "input_text", "text": text}]
    r = real.responses.create(model=MODEL, input=[{"role": "user", "content": parts}], max_output_tokens=8, temperature=0)
    assert "green" in r.output_text, r
    parts = [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    e = raises(openai.BadRequestError, lambda: real.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}]))
    assert e.param == "messages" and "fetches nothing" in e.message, e


def embeddings():
    a = real.embeddings.create(model=MODEL, input=["a cat", "a kitten", "the stock exchange"])
    v = [d.embedding for d in a.data]
    near, far = (sum(x * y for x, y in zip(v[0], other)) for other in v[1:])
    assert abs(sum(x * x for x in v[0]) - 1) < 1e-3 and near > far and a.usage.prompt_tokens > 0, (near, far)
    plain = real.embeddings.create(model=MODEL, input="a cat", encoding_format="float").data[0].embedding
    assert max(abs(x - y) for x, y in zip(plain, v[0])) < 1e-3


def models():
    assert real.models.retrieve(MODEL).id == MODEL


def errors():
    ask = real.chat.completions.create
    e = raises(openai.NotFoundError, lambda: ask(model="no-such-model", messages=HI))
    assert MODEL in str(e) and e.code == "model_not_found", e
    e = raises(openai.BadRequestError, lambda: ask(model=MODEL, messages=HI, temperature=-4))
    assert e.param == "temperature" and e.type == "invalid_request_error", e
    e = raises(openai.BadRequestError, lambda: ask(model=MODEL, messages=[{"role": "user", "content": "word " * 9000}]))
    assert e.code == "context_length_exceeded" and "8192" in str(e), e
    raises(openai.BadRequestError, lambda: ask(model=MODEL, messages=[]))
    raises(openai.NotFoundError, lambda: real.models.retrieve("no-such-model"))
    raises(openai.BadRequestError, lambda: real.responses.create(model=MODEL, input="hi", previous_response_id="resp_1"))


def leaving_ends_the_work():
    direct = client(DIRECT)
    story = [{"role": "user", "content": "Tell a long story."}]
    chunks = direct.chat.completions.create(model=MODEL, messages=story, max_tokens=3000, stream=True,
                                            extra_body={"ignore_eos": True})
    for _ in range(3):
        next(chunks)
    chunks.close()
    idle()
    begun = time.monotonic()
    raises(openai.APITimeoutError, lambda: direct.with_options(timeout=1).chat.completions.create(
        model=MODEL, messages=story, max_tokens=3000, extra_body={"ignore_eos": True}))
    assert time.monotonic() - begun < 60
    idle()


run("openai, Python", [
    chat, stream_equals_whole, two_answers_with_logprobs, stop_ends_the_answer, json_schema, json_object,
    parse_into_a_class, completions, tools_there_and_back, two_tool_calls, tools_streamed,
    reasoning_apart_from_content, responses, responses_stream, responses_parse, responses_tools_there_and_back,
    images, embeddings, models, errors, leaving_ends_the_work])
