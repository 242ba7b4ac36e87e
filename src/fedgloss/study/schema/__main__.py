"""Write the JSON schemas by which editors complete keys: `python -m fedgloss.study.schema`."""

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from fedgloss.files import write_text
from fedgloss.study.schema.constants import Methods
from fedgloss.study.schema.resources import Resources
from fedgloss.study.schema.study import Study

SCHEMAS = Path(__file__).parents[1] / "schemas"


class Generator(GenerateJsonSchema):
    """Without titles that repeat the keys, and without null for a key that is left out."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: Any) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> dict[str, Any]:
        default = schema.get("default")  # one that is empty stands for what is filled in
        if isinstance(default, (str, int, float, tuple)) and default not in ("", ()):
            return super().default_schema(schema)
        return self.generate_inner(schema["schema"])


def json_schemas() -> dict[str, str]:
    """The text of each JSON schema by the name of its file."""
    found = {}
    for kind in (Study, Methods, Resources):
        schema = {"$schema": Generator.schema_dialect}
        schema |= kind.model_json_schema(schema_generator=Generator)
        found[f"{kind.__name__.lower()}.schema.json"] = f"{json.dumps(schema, indent=1)}\n"
    return found


if __name__ == "__main__":
    for name, text in json_schemas().items():
        write_text(SCHEMAS / name, text)
