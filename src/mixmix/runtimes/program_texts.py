"""Texts in exported programs that PyTorch evaluates; mixmix evaluates none, and knows their form.

``torch.export.load`` runs ``expr_str`` through sympy, which evaluates Python, and ``guards_code``
and ``forward_arg_names`` become source code. Programs with texts of any other form than PyTorch
writes are refused, so that they do no harm elsewhere either.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["problems_of_pickle", "problems_of_texts"]

_FUNCTIONS = frozenset(
    """
    Symbol Integer Float Rational Add Mul Pow Min Max Mod Identity FloorDiv CeilDiv CleanDiv
    PythonMod ModularIndexing IntTrueDiv FloatTrueDiv FloatPow PowByNatural ToFloat CeilToInt
    FloorToInt TruncToInt TruncToFloat RoundToInt RoundDecimal LShift RShift Where Eq Ne Equality
    Unequality Lt Le Gt Ge LessThan StrictLessThan GreaterThan StrictGreaterThan And Or Not floor
    ceiling Abs Half One Zero NegativeOne oo int_oo
    """.split()  # noqa: SIM905
)
_WORDS = _FUNCTIONS | {"positive", "integer", "real", "nonnegative", "precision", "True", "False"}
_SYMBOL = re.compile(r"'?\b(zuf|[suz])\d+\b'?", re.ASCII)
_WORD = re.compile(r"[^\W\d]\w*", re.ASCII)
_EXPRESSION = re.compile(r"(?:[\w\s()+\-*/%,=<>!&|~]|(?<=\d)\.(?=\d)|(?<=\d)\.)*", re.ASCII)
_SIZE = re.compile(r"L\['\w+'\](\[('\w+'|\d+)\])*\.size\(\)\[\d+\]", re.ASCII)
_GUARD_WORDS = _WORDS | {"and", "or", "not"}
_LONGEST = 100_000
# Names that pickles of tensors use.
_PLAIN = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (\w+Storage|device|Size|float\w*|int\w*|uint8|bool|bfloat16)"
    r"|torch\.storage UntypedStorage|torch\.serialization _get_layout",
    re.ASCII,
)


def problems_of_texts(content: Any) -> Iterator[str]:
    """What a JSON document of a graph contains that is not of the form that PyTorch writes.

    ``metadata`` is free text, such as stack traces, and read by nobody.
    """
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting.extend(part)
        if not isinstance(part, dict):
            continue
        for key, value in part.items():
            if key == "metadata":
                continue
            waiting.append(value)
            if key == "expr_str" and not _is_expression(value, _WORDS):
                yield f"the expression {str(value)[:80]!r}"
            elif key == "guards_code":
                for guard in _texts(value):
                    if not _is_expression(_SIZE.sub("1", guard), _GUARD_WORDS):
                        yield f"the guard {guard[:80]!r}"
            elif key == "forward_arg_names":
                for name in _texts(value):
                    if not (name.isascii() and name.isidentifier()):
                        yield f"the argument {name[:80]!r}"


def _texts(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)] * bool(value)


def _is_expression(text: Any, words: frozenset[str]) -> bool:
    """Whether a text has numbers, symbols of sizes, and known functions only."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        return False
    plain = _SYMBOL.sub("1", text)
    return (
        _EXPRESSION.fullmatch(plain) is not None
        and plain.count("(") == plain.count(")")
        and words.issuperset(_WORD.findall(plain))
    )


def problems_of_pickle(name: str, pickled: bytes) -> Iterator[str]:
    """What a pickle refers to beyond tensors; it is not unpickled."""
    try:
        for code, argument, _ in pickletools.genops(pickled):
            is_name = code.name == "GLOBAL" and _PLAIN.fullmatch(str(argument)) is not None
            if code.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4") or (
                code.name == "GLOBAL" and not is_name
            ):
                yield f"more than tensors in {name}"
                return
    except Exception:  # of damaged pickles
        yield f"more than tensors in {name}"
