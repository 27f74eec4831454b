"""JSON from strangers (RFC 8259), with a limit on nesting.

`json.loads` recurses once per level. A document of a thousand brackets takes it to the recursion limit, where any
finaliser that the garbage collector runs meanwhile fails too, in whichever object it belongs to.
"""

import json
import re
from itertools import accumulate
from typing import Any, Final

MAX_DEPTH: Final = 16
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


def parse_json(document: str | bytes) -> Any:
    """Return the value that *document* holds.

    :raises ValueError: *document* is no JSON in UTF-8, or nests deeper than `MAX_DEPTH` arrays and objects. The error
        holds nothing of the document.
    """
    try:
        text = document if isinstance(document, str) else document.decode()
        if max(accumulate(_STEPS.get(character, 0) for character in _STRING.sub("", text)), default=0) <= MAX_DEPTH:
            return json.loads(text)
    except ValueError:
        pass  # raised anew below: the error of the decoder carries the document
    raise ValueError(f"expected one JSON document in UTF-8, with at most {MAX_DEPTH} levels of arrays and objects")
