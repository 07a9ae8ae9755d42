"""Settings of the user that fail before anything is sent to the Hub: a proxy that cannot be used, a token that is none.

The HTTP client raises ValueError and ImportError for them, as it does for an answer that it does not understand.
"""

from __future__ import annotations

import os
import re

_PROXIES = ("all_proxy", "https_proxy", "http_proxy")


def unusable_setting(error: BaseException) -> tuple[str, str] | None:
    """(what is wrong, what to do) if the error is about a setting; None for any other. No value is repeated: addresses
    of proxies hold passwords.
    """
    said = str(error)
    if isinstance(error, ImportError) and "socksio" in said:
        return (
            f"{_proxies('socks')} names a SOCKS proxy, which needs the package socksio",
            "Install it (pip install socksio), or unset the variable.",
        )
    # httpx's, under whichever name this version of the client imports it; or the client's own import fails
    kind = type(error).__name__
    bad_address = kind == "InvalidURL" or (isinstance(error, ValueError) and said.startswith("Port "))
    if kind == "UnsupportedProtocol" or (bad_address and not _named()):
        return "HF_ENDPOINT is not the address of a Hub", "Write https://HOST, or unset it."
    if bad_address or (isinstance(error, ValueError) and "proxy URL" in said):
        return (
            f"{_proxies()} is not the address of a proxy that can be used",
            "Write http://HOST:PORT or socks5://HOST:PORT, or unset the variable.",
        )
    if isinstance(error, UnicodeEncodeError):
        return (
            "the token holds a character that is not ASCII, so it is not a token of the Hub",
            "Set HF_TOKEN again, or run `hf auth login`.",
        )
    return None


def _named() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.lower() in _PROXIES and value}


def _proxies(scheme: str = "") -> str:
    """The variables that name a proxy of this scheme; those that name one without a scheme the client knows first."""
    named = _named()
    fitting = [name for name, value in named.items() if value.lower().startswith(scheme)] if scheme else []
    odd = [name for name, value in named.items() if not re.match(r"(?i)(https?|socks5h?)://", value)]
    names = fitting or odd or list(named) or ["the proxy of the system"]
    return f"the setting {' or '.join(sorted(names))}" if named else names[0]
