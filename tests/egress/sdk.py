"""The providers' own SDKs through the proxy: what they send is understood, what they get is what they expect."""

import json
import sys

import anthropic
import openai

claude_url, openai_url, poor_url, token = sys.argv[1:]
hello = [{"role": "user", "content": "hello"}]

client = anthropic.Anthropic(base_url=claude_url, api_key=token, max_retries=2)
whole = client.messages.create(model="claude-opus-4-8", max_tokens=100, messages=hello)
assert whole.content[0].text == "hello" and whole.usage.output_tokens == 50, whole
with client.messages.stream(model="claude-opus-4-8", max_tokens=100, messages=hello) as stream:
    text = "".join(stream.text_stream)
    assert text == "hello" and stream.get_final_message().usage.output_tokens == 50, text
assert client.messages.count_tokens(model="claude-opus-4-8", messages=hello).input_tokens == 7

other = openai.OpenAI(base_url=openai_url + "/v1", api_key=token, max_retries=2)
chat = other.chat.completions.create(model="gpt-5", messages=hello)
assert chat.choices[0].message.content == "hello" and chat.usage.prompt_tokens == 1000, chat
chunks = list(other.chat.completions.create(model="gpt-5", messages=hello, stream=True))
assert all(chunk.choices and chunk.usage is None for chunk in chunks), chunks
asked = list(other.chat.completions.create(model="gpt-5", messages=hello, stream=True, stream_options={"include_usage": True}))
assert asked[-1].usage.completion_tokens == 20 and not asked[-1].choices, asked[-1]
events = list(other.responses.create(model="gpt-5", input="hello", stream=True))
assert events[-1].type == "response.completed", events[-1]

told = []
poor = anthropic.Anthropic(base_url=poor_url, api_key=token, max_retries=2)
for ask in [
    lambda: poor.messages.create(model="claude-opus-4-8", max_tokens=100, messages=hello),
    lambda: client.messages.create(model="claude-unknown", max_tokens=100, messages=hello),
    lambda: other.responses.create(model="gpt-5", input="hello", tools=[{"type": "web_search"}]),
]:
    try:
        ask()
    except (anthropic.APIStatusError, openai.APIStatusError) as error:
        told.append([error.status_code, str(error)])
print(json.dumps(told))
