"""Anthropic's Python SDK: messages, streams, tools, thinking, counting, errors, leaving."""

import anthropic
from checks import DIRECT, REAL, SCRIPTED, idle, model, picture, raises, run


def client(base):
    return anthropic.Anthropic(base_url=base, api_key="none", max_retries=0, timeout=100)


real, fixed = client(REAL), client(SCRIPTED)
MODEL, FIXED = model(REAL), model(SCRIPTED)
HI = [{"role": "user", "content": "Say hi."}]
GREEDY = {"temperature": 0}  # the SDK has no argument for it any more
ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]
TOOL = {"name": "get_weather", "description": "of a city",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}


def message():
    a = real.messages.create(model=MODEL, max_tokens=12, messages=HI, extra_body=GREEDY, system="Be brief.")
    assert a.content[0].text and a.role == "assistant" and a.stop_reason in ("end_turn", "max_tokens"), a
    assert a.usage.input_tokens + a.usage.cache_read_input_tokens > 0 and a.usage.output_tokens > 0, a


def stream_equals_whole():
    ask = dict(model=MODEL, max_tokens=12, messages=HI, extra_body=GREEDY)
    with real.messages.stream(**ask) as s:
        text = "".join(s.text_stream)
        final = s.get_final_message()
    assert text == final.content[0].text == real.messages.create(**ask).content[0].text, (text, final)


def image():
    source = {"type": "base64", "media_type": "image/png", "data": picture(0, 0, 255)}
    parts = [{"type": "image", "source": source}, {"type": "text", "text": "Repeat the word."}]
    a = real.messages.create(model=MODEL, max_tokens=8, messages=[{"role": "user", "content": parts}], extra_body=GREEDY)
    assert "blue" in a.content[0].text, a


def stop_sequence():
    ask = dict(model=MODEL, max_tokens=12, messages=HI, extra_body=GREEDY)
    whole = real.messages.create(**ask).content[0].text
    cut = real.messages.create(stop_sequences=[whole[3:6]], **ask)
    assert cut.stop_reason == "stop_sequence" and cut.stop_sequence == whole[3:6], cut


def tools_there_and_back():
    a = fixed.messages.create(model=FIXED, max_tokens=1000, messages=ASK, tools=[TOOL])
    call = [b for b in a.content if b.type == "tool_use"][0]
    assert a.stop_reason == "tool_use" and (call.name, call.input) == ("get_weather", {"city": "Oslo"}), a
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "21 degrees"}]}
    turn = ASK + [{"role": "assistant", "content": a.content}, {"role": "user", "content": [result]}]
    b = fixed.messages.create(model=FIXED, max_tokens=1000, messages=turn, tools=[TOOL])
    assert b.content[-1].text == "It is 21 degrees in Oslo." and b.stop_reason == "end_turn", b


def tools_streamed():
    with fixed.messages.stream(model=FIXED, max_tokens=1000, messages=ASK, tools=[TOOL]) as s:
        kinds = [e.type for e in s]
        final = s.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and "input_json" in kinds, kinds
    assert [b for b in final.content if b.type == "tool_use"][0].input == {"city": "Oslo"}, final


def thinking():
    ask = [{"role": "user", "content": "two and two?"}]
    a = fixed.messages.create(model=FIXED, max_tokens=2048, messages=ask, thinking={"type": "enabled", "budget_tokens": 1024})
    assert [(b.type, getattr(b, b.type)) for b in a.content] == [("thinking", "Two and two."), ("text", "Four.")], a


def count_tokens():
    n = real.messages.count_tokens(model=MODEL, messages=HI).input_tokens
    usage = real.messages.create(model=MODEL, max_tokens=1, messages=HI).usage
    assert n == usage.input_tokens + usage.cache_read_input_tokens, (n, usage)


def errors():
    ask = real.messages.create
    e = raises(anthropic.NotFoundError, lambda: ask(model="no-such-model", max_tokens=5, messages=HI))
    assert e.body["type"] == "error" and e.body["error"]["type"] == "not_found_error" and MODEL in str(e), e
    e = raises(anthropic.BadRequestError, lambda: ask(model=MODEL, max_tokens=5, messages=HI, extra_body={"temperature": -4}))
    assert e.body["error"]["type"] == "invalid_request_error" and "temperature" in str(e), e
    long = [{"role": "user", "content": "word " * 9000}]
    e = raises(anthropic.BadRequestError, lambda: ask(model=MODEL, max_tokens=5, messages=long))
    assert "8192" in str(e), e


def leaving_ends_the_work():
    story = [{"role": "user", "content": "Tell a long story."}]
    with client(DIRECT).messages.stream(model=MODEL, max_tokens=3000, messages=story,
                                        extra_body={"ignore_eos": True}) as s:
        for _, _ in zip(range(3), s.text_stream):
            pass
    idle()


run("anthropic, Python", [message, stream_equals_whole, image, stop_sequence, tools_there_and_back, tools_streamed, thinking,
                          count_tokens, errors, leaving_ends_the_work])
