"""Parses untrusted JSON (RFC 8259), with a limit on nesting.

`json.loads` recurses once per level, and a document of a thousand brackets reaches the recursion limit. At the limit,
the garbage collector may run finalisers of unrelated objects, which then fail too.
"""

import json
import re
from itertools import accumulate
from typing import Any, Final

MAX_DEPTH: Final = 16
# Matches an unterminated string too. Otherwise the search would restart at each of its quotes, in quadratic time.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


def parse_json(document: str | bytes) -> Any:
    """Return the value of the JSON in *document*.

    :raises ValueError: *document* is not one JSON text in UTF-8, or nests deeper than `MAX_DEPTH` arrays and objects.
        The error quotes nothing of the document.
    """
    try:
        text = document if isinstance(document, str) else document.decode()
        if max(accumulate(_STEPS.get(character, 0) for character in _STRING.sub("", text)), default=0) <= MAX_DEPTH:
            return json.loads(text)
    except ValueError:
        pass  # replaced by the error below: the error of the decoder holds the document
    raise ValueError(f"document must be one JSON text in UTF-8, with at most {MAX_DEPTH} levels of arrays and objects")
