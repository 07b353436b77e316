"""Pages that `make docs` makes of the examples: a table of them, and their notebook as it was last run."""

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

EXAMPLES = Path(__file__).parent.parent / "examples"
TABLE = """# Examples

Programs in `examples/`; `--help` lists their options. CI runs them on small data.

| program | what it does |
|---|---|
"""


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the pages; mkdocs calls this."""
    files.append(File.generated(config, "examples.md", content=TABLE + "\n".join(_rows()) + "\n"))
    parts, pictures = [], 0
    for cell in json.loads((EXAMPLES / "story.ipynb").read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"images/story/{pictures}.png"
                content = base64.b64decode("".join(data["image/png"]))
                files.append(File.generated(config, name, content=content))
                parts.append(f"![What the code above draws]({name})")
                pictures += 1
            else:
                text = "".join(output.get("text") or data.get("text/plain", ""))
                parts.append(f"```text\n{text.rstrip()}\n```")
    files.append(File.generated(config, "story.md", content="\n\n".join(parts) + "\n"))
    return files


def _rows() -> Iterator[str]:
    """Of the programs, not of the modules that they share: what the first line of each says."""
    for file in sorted(EXAMPLES.glob("*.py")):
        text = file.read_text()
        if '__name__ == "__main__"' in text:
            yield f"| `{file.name}` | {(ast.get_docstring(ast.parse(text)) or '').splitlines()[0]} |"
