"""LangChain's OpenAI integration: invoke, stream, structured output, tools, embeddings, errors."""

from typing import Literal

import openai
from checks import REAL, SCRIPTED, model, raises, run
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field


def chat(base, **more):
    return ChatOpenAI(base_url=base + "/v1", api_key="none", model=model(base), max_retries=0, timeout=100,
                      temperature=0, **more)


class Verdict(BaseModel):
    """What is known about a tomato."""
    fruit: bool = Field(description="whether it is a fruit")
    colour: Literal["red", "green", "blue"]


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return "21 degrees"


def invoke():
    a = chat(REAL, max_tokens=12).invoke("Say hi.")
    assert a.content and a.usage_metadata["output_tokens"] > 0, a


def stream():
    llm = chat(REAL, max_tokens=12)
    assert "".join(c.content for c in llm.stream("Say hi.")) == llm.invoke("Say hi.").content


def structured_output():
    llm = chat(REAL, max_tokens=60).with_structured_output(Verdict, method="json_schema")
    assert isinstance(llm.invoke("Is a tomato a fruit?"), Verdict)


def tools_there_and_back():
    llm = chat(SCRIPTED).bind_tools([get_weather])
    turn = [HumanMessage("What is the weather in Oslo?")]
    turn.append(llm.invoke(turn))
    call = turn[-1].tool_calls[0]
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"}), turn
    turn.append(ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]))
    assert llm.invoke(turn).content == "It is 21 degrees in Oslo."


def through_responses():
    a = chat(REAL, max_tokens=16, use_responses_api=True).invoke("Say hi.")
    assert a.text, a


def embeddings():
    e = OpenAIEmbeddings(base_url=REAL + "/v1", api_key="none", model=model(REAL), check_embedding_ctx_length=False)
    assert len(e.embed_documents(["a cat", "a dog"])) == 2 and len(e.embed_query("a cat")) > 100


def errors():
    llm = ChatOpenAI(base_url=REAL + "/v1", api_key="none", model="no-such-model", max_retries=0)
    raises(openai.NotFoundError, lambda: llm.invoke("Say hi."))


run("langchain-openai, Python", [invoke, stream, structured_output, tools_there_and_back, through_responses, embeddings,
                                 errors])
