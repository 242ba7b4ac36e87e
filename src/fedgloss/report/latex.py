"""Plain text as LaTeX."""

import re

_MATH = {"±": r"\pm", "×": r"\times", "≈": r"\approx", "∼": r"\sim", "≠": r"\neq"}
_MATH |= {"α": r"\alpha", "λ": r"\lambda", "₁": "_1", "·": r"\cdot", "†": r"\dagger"}
_MATH |= {sign: sign for sign in "<>=|"}
TEX = {sign: f"${math}$" for sign, math in _MATH.items()}
TEX |= {sign: f"\\{sign}" for sign in "_%&#${}"}
TEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
TEX |= {"–": r"\textendash{}"}


def tex(text: str) -> str:
    """Plain text with `code` in backticks as LaTeX."""
    escaped = "".join(TEX.get(c, c) for c in text)

    def code(found: re.Match[str]) -> str:
        # Paths may break after a slash, and two hyphens are not a dash.
        body = found[1].replace("/", r"/\allowbreak{}").replace("--", "-{}-")
        return rf"\texttt{{{body}}}"

    return re.sub(r"`([^`]*)`", code, escaped)
