"""What ``delivery check`` says about the providers file.

Owns: these findings. Never does: send a message, or show a secret.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from delivery.bootstrap.transports import make_renderer, open_transport
from delivery.checks.findings import Finding, ok, warn, wrong
from delivery.config import Settings, load_policies, load_providers
from delivery.config.needs import GATEWAY
from delivery.domain.channels import Channel
from delivery.errors import ConfigError


def look_at_providers(settings: Settings, of: Collection[str] | None) -> Iterator[Finding]:
    """The file, each provider's values and secrets, and whether a step names it.

    Args:
        of: duties of the kind of process that is asked about, which needs the secrets of its
            channels alone; ``None`` for all.
    """
    try:
        file = load_providers(settings)
        renderer = make_renderer(settings)
    except ConfigError as error:
        yield wrong("providers", error)
        return
    usable: list[str] = []
    for name, spec in file.specs.items():
        is_signed = spec.channel == Channel.SMS  # the gateway checks callbacks with the token
        if of is not None and spec.channel not in of and not (is_signed and GATEWAY in of):
            continue
        try:
            open_transport(settings, file, name, renderer)
            usable.append(name)
        except ConfigError as error:
            yield wrong("providers", error)
    if usable:
        yield ok("providers", f"values and secrets of {', '.join(usable)} can be read")
    yield from _unused(settings, file.specs)


def _unused(settings: Settings, names: Collection[str]) -> Iterator[Finding]:
    try:
        policies = load_policies(settings)
    except ConfigError:
        return  # the finding of the policies says it
    used = {
        name
        for policy in policies.classes.values()
        for step in policy.chain
        for name in step.providers
    }
    unused = [name for name in names if name not in used]
    if unused:
        yield warn(
            "providers",
            f"defined, and named by no step: {', '.join(unused)}",
            "name them in providers = [...] of a step of the policies, or take them out",
        )
