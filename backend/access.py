"""Who may use the app where it listens beyond this machine: whoever knows the operator's token.

On loopback nobody is asked. Anywhere else every page would be open to the network, with the bundles, runs and engines
behind it, so the app refuses to answer until the operator has set a token, and then asks each session for it.
"""

from __future__ import annotations

import hmac
import ipaddress
import os

from backend.errors import PrerequisiteError

VARIABLE = "PROBE_PARITY_TOKEN"
MIN_LENGTH = 16  # a wrong token costs a second: a shorter one could be guessed


def needs_token(address: str | None) -> bool:
    """Tell whether an address that the app is bound to can be reached from elsewhere; None is every interface."""
    if address == "localhost":
        return False
    try:
        return not ipaddress.ip_address(address or "0.0.0.0").is_loopback
    except ValueError:
        return True  # a name, which may be anything


def require_configured() -> None:
    """Check that the operator has set a token that is worth something.

    Raises:
        PrerequisiteError: there is none, or it is too short.
    """
    if len(os.environ.get(VARIABLE, "")) < MIN_LENGTH:
        raise PrerequisiteError(
            "The app is bound to an address that other machines reach, without a token",
            remedy=f"Set the environment variable {VARIABLE} to at least {MIN_LENGTH} characters that nobody can guess, or "
            "leave server.address at 127.0.0.1.",
        )


def is_token(given: str) -> bool:
    """Tell whether somebody knows the token; takes as long for a near miss as for any other."""
    known = os.environ.get(VARIABLE, "")
    same = hmac.compare_digest(given.encode("utf-8", "replace"), known.encode("utf-8", "replace"))
    return same and len(known) >= MIN_LENGTH
