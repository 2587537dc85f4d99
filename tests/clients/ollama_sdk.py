"""Ollama's Python client: what it can read about the server, chat, tools, formats, errors."""

import json

import ollama
from checks import REAL, SCRIPTED, model, picture, raises, run

real, fixed = ollama.Client(REAL), ollama.Client(SCRIPTED)
MODEL, FIXED = model(REAL), model(SCRIPTED)
HI = [{"role": "user", "content": "Say hi."}]
ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]
SHORT = {"temperature": 0, "num_predict": 12}
TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}


def what_there_is():
    assert MODEL in [m.model for m in real.list().models], real.list()
    assert real.show(MODEL).details.format == "gguf", real.show(MODEL)
    assert "vision" in real.show(MODEL).capabilities, real.show(MODEL)
    assert MODEL in [m.model for m in real.ps().models], real.ps()


def chat():
    a = real.chat(model=MODEL, messages=HI, options=SHORT)
    assert a.message.content and a.done and a.eval_count > 0 and a.total_duration > 0, a


def stream_equals_whole():
    parts = list(real.chat(model=MODEL, messages=HI, options=SHORT, stream=True))
    text = "".join(p.message.content for p in parts)
    assert text == real.chat(model=MODEL, messages=HI, options=SHORT).message.content and parts[-1].done, parts


def generate():
    assert real.generate(model=MODEL, prompt="One, two,", options=SHORT).response


def images():
    says = [{"role": "user", "content": "Repeat the word.", "images": [picture(255, 0, 0)]}]
    assert "red" in real.chat(model=MODEL, messages=says, options=SHORT).message.content
    assert "red" in real.generate(model=MODEL, prompt="Repeat the word.", images=[picture(255, 0, 0)], options=SHORT).response


def structured_output():
    schema = {"type": "object", "properties": {"fruit": {"type": "boolean"}}, "required": ["fruit"],
              "additionalProperties": False}
    a = real.chat(model=MODEL, messages=HI, format=schema, options={"temperature": 0, "num_predict": 40})
    assert isinstance(json.loads(a.message.content)["fruit"], bool), a


def tools_there_and_back():
    a = fixed.chat(model=FIXED, messages=ASK, tools=[TOOL])
    call = a.message.tool_calls[0].function
    assert (call.name, call.arguments) == ("get_weather", {"city": "Oslo"}), a
    turn = ASK + [a.message, {"role": "tool", "tool_name": call.name, "content": "21 degrees"}]
    assert fixed.chat(model=FIXED, messages=turn, tools=[TOOL]).message.content == "It is 21 degrees in Oslo."


def errors():
    e = raises(ollama.ResponseError, lambda: real.chat(model="no-such-model", messages=HI))
    assert e.status_code == 404 and MODEL in e.error, e


run("ollama, Python", [what_there_is, chat, stream_equals_whole, generate, images, structured_output, tools_there_and_back,
                       errors])
