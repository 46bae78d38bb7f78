"""
Writes ``magichour_provider/data/tools.json``: what the vendor says of its paid calls, as slim JSON Schemas.

    .venv/bin/python tools/vendor_tools.py openapi.json

The OpenAPI of the vendor is merged with the newer request models of its Python SDK: fields and values that
only one of them knows are taken, and a field is required if both require it. Descriptions are left out.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from magic_hour.types import params

Schema = dict[str, Any]

OUT = Path(__file__).resolve().parent.parent / "magichour_provider" / "data" / "tools.json"
JOB_TYPES = {"Video Projects": "video", "Image Projects": "image", "Audio Projects": "audio"}
LIMITS = ("enum", "minimum", "maximum", "minLength", "maxLength", "maxItems", "multipleOf")

# The calls that only the SDK knows: job type, title, and the example in its documentation.
SDK_ONLY: dict[str, tuple[str, str, Schema]] = {
    "ai-music-generator": (
        "audio",
        "AI Music Generator",
        {
            "name": "My Music Generator audio",
            "duration": 120,
            "style": {
                "instrumental": False,
                "lyrics": "City lights are fading...",
                "prompt": "Dreamy synthwave with warm bass and soft vocals",
            },
        },
    ),
    "ai-ugc-ad": (
        "video",
        "AI UGC Ad Generator",
        {
            "assets": {"image_file_path": "api-assets/id/image.jpg"},
            "end_seconds": 4.0,
            "script": "Meet your new everyday essential.",
        },
    ),
    "ai-video-translator": (
        "video",
        "AI Video Translator",
        {
            "name": "My Video Translator video",
            "assets": {"video_file_path": "api-assets/id/1234.mp4"},
            "start_seconds": 0.0,
            "end_seconds": 15.0,
            "target_language": "Spanish",
        },
    ),
    "ai-video-upscaler": (
        "video",
        "AI Video Upscaler",
        {
            "name": "My Video Upscaler video",
            "assets": {"video_file_path": "api-assets/id/1234.mp4"},
            "start_seconds": 0.0,
            "end_seconds": 5.0,
            "resolution": "1080p",
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("openapi", type=Path)
    parser.add_argument("--dated", default="2026-08", help="of the OpenAPI")
    options = parser.parse_args()
    tools = from_openapi(json.loads(options.openapi.read_text()))
    for name, (job_type, title, example) in SDK_ONLY.items():
        tools[name] = {"job_type": job_type, "title": title, "schema": of_sdk(name), "example": example}
    content = {
        "source": f"Magic Hour's OpenAPI of {options.dated}, and its Python SDK "
        f"magic-hour {version('magic-hour')}",
        "licence": "MIT, copyright (c) 2025 Magic Hour AI: see LICENSE beside this file",
        "tools": dict(sorted(tools.items())),
    }
    OUT.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(f"{OUT.name}: {len(tools)} tools")


def from_openapi(openapi: Schema) -> dict[str, Schema]:
    tools = {}
    for path, methods in openapi["paths"].items():
        call = methods.get("post")
        if call is None or call["tags"][0] not in JOB_TYPES:
            continue
        name = path.removeprefix("/v1/")
        described = call["requestBody"]["content"]["application/json"]["schema"]
        tools[name] = {
            "job_type": JOB_TYPES[call["tags"][0]],
            "title": call["summary"],
            "schema": merged(slim(described), of_sdk(name)),
            "example": example_of(described),
        }
    return tools


def slim(described: Schema) -> Schema:
    kept = {key: described[key] for key in ("type", *LIMITS) if key in described}
    if described.get("nullable"):
        kept["type"] = [kept["type"], "null"]
    if "items" in described:
        kept["items"] = slim(described["items"])
    if "properties" in described:
        kept |= object_of({name: slim(of) for name, of in described["properties"].items()})
        kept |= {"required": described["required"]} if described.get("required") else {}
    return kept


def object_of(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def of_sdk(name: str) -> Schema:
    """The request of a call as the SDK models it."""
    words = "".join(word.capitalize() for word in name.split("-"))
    model = getattr(params, f"_SerializerV1{words}CreateBody")
    schema: Schema = model.model_json_schema(by_alias=True)
    return resolved(schema, schema.get("$defs", {}))


def resolved(modelled: Schema, definitions: dict[str, Schema]) -> Schema:
    if "$ref" in modelled:
        return resolved(definitions[modelled["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in modelled:  # optional: it may be left out, it may not be null
        (given,) = [one for one in modelled["anyOf"] if one.get("type") != "null"]
        return resolved(given, definitions)
    if "const" in modelled:
        return {"type": "string", "enum": [modelled["const"]]}
    kept: Schema = {key: modelled[key] for key in ("type", "enum") if key in modelled}
    if "items" in modelled:
        kept["items"] = resolved(modelled["items"], definitions)
    if "properties" in modelled:
        properties = {name: resolved(of, definitions) for name, of in modelled["properties"].items()}
        kept |= object_of(properties)
        kept |= {"required": modelled["required"]} if modelled.get("required") else {}
    return kept


def merged(openapi: Schema, sdk: Schema) -> Schema:
    found = dict(openapi)
    if "enum" in openapi and "enum" in sdk:
        found["enum"] = [*openapi["enum"], *(value for value in sdk["enum"] if value not in openapi["enum"])]
    elif "enum" in openapi:
        del found["enum"]  # the newer one takes any value
    if "items" in openapi:
        found["items"] = merged(openapi["items"], sdk.get("items", {}))
    if "properties" in openapi:
        newer = sdk.get("properties", {})
        both = {name: merged(of, newer.get(name, of)) for name, of in openapi["properties"].items()}
        found["properties"] = {**newer, **both}
        required = [one for one in openapi.get("required", []) if one in sdk.get("required", [])]
        found.pop("required", None)
        found |= {"required": required} if required else {}
    return found


def example_of(described: Schema) -> Any:
    """Made of the examples of all its fields. A required field has one in any case."""
    if "properties" in described:
        required = described.get("required", ())
        made = {
            name: example_of(of if name in required else {**of, "enum": []})
            for name, of in described["properties"].items()
        }
        return {name: value for name, value in made.items() if value is not None}
    if "items" in described and "example" not in described:
        item = example_of(described["items"])
        return None if item is None else [item]
    return described.get("example", described.get("default", next(iter(described.get("enum", ())), None)))


if __name__ == "__main__":
    main()
