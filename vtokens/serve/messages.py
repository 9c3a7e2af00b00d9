"""What a chat holds: its turns, and the text, pictures, videos and tool calls in them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from vtokens.schemas.base import Schema

Words = Annotated[str, Field(description="Text.")]
Nothing = Annotated[None, Field(description="Only null: the server has nothing like it.")]


class ImageUrl(Schema):
    """Where a picture is."""

    url: Annotated[
        str,
        Field(
            min_length=1,
            description="A data URL (data:image/png;base64,...), or an https URL of a host that the server was started "
            "with (--allow-host).",
        ),
    ]
    detail: Annotated[
        Literal["auto", "high"] | None,
        Field(description="Pictures are always shown as the model's processor makes them; `vtokens.keep` shows less."),
    ] = None


class VideoUrl(Schema):
    """Where a video is."""

    url: Annotated[str, Field(min_length=1, description="A data URL (data:video/mp4;base64,...), or as of a picture.")]


class TextPart(Schema):
    """A piece of text."""

    type: Literal["text"]
    text: Words


class ImagePart(Schema):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


class VideoPart(Schema):
    """A video, of which frames are taken evenly; an extension of OpenAI's interface, as vLLM has it."""

    type: Literal["video_url"]
    video_url: VideoUrl


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]
Parts = Annotated[list[Part], Field(min_length=1, description="Parts, shown in this order.")]
Texts = Annotated[list[TextPart], Field(min_length=1, description="Pieces of text.")]


class CalledFunction(Schema):
    """A function that the model called."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: Annotated[str, Field(description="A JSON object, as text.")]


class ToolCall(Schema):
    """A call of a tool in an earlier answer."""

    id: Annotated[str, Field(min_length=1, max_length=512)]
    type: Literal["function"] = "function"
    function: CalledFunction


class SystemTurn(Schema):
    """What the model is told before the chat; `developer` means the same."""

    role: Literal["system", "developer"]
    content: Words | Texts
    name: Nothing = None


class UserTurn(Schema):
    """What the user says and shows."""

    role: Literal["user"]
    content: Words | Parts
    name: Nothing = None


class AssistantTurn(Schema):
    """An earlier answer; the message of an answer of this server can be sent back as it is."""

    role: Literal["assistant"]
    content: Annotated[Words | Texts | None, Field(description="Not shown to the model beside `tool_calls`.")] = None
    tool_calls: Annotated[list[ToolCall] | None, Field(min_length=1, max_length=128)] = None
    reasoning_content: Annotated[
        str | None, Field(description="Taken as answers give it, and not shown to the model again.")
    ] = None
    vtokens: Annotated[
        dict[str, Any] | None, Field(description="The filter's verdict, as answers give it; not shown to the model.")
    ] = None
    name: Nothing = None
    refusal: Nothing = None
    annotations: Nothing = None
    audio: Nothing = None
    function_call: Nothing = None


class ToolTurn(Schema):
    """What a tool that the model called gave."""

    role: Literal["tool"]
    content: Words | Texts
    tool_call_id: Annotated[str, Field(min_length=1, max_length=512)]


Turn = Annotated[SystemTurn | UserTurn | AssistantTurn | ToolTurn, Field(discriminator="role")]


class Function(Schema):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Annotated[str | None, Field(max_length=100_000)] = None
    parameters: Annotated[dict[str, Any] | None, Field(description="A JSON schema of its arguments.")] = None
    strict: Annotated[Literal[False] | None, Field(description="Arguments are not forced to fit the schema.")] = None


class Tool(Schema):
    """A tool that the model is told of, where its chat template takes tools."""

    type: Literal["function"]
    function: Function
