"""The sentences of the pages behind links, in the languages that the shipped mails speak.

Owns: these words, and which of them a contact gets. Pure. Never does: escape; a page does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Words:
    """One language. ``{}`` stands for a number, for so many updates, or for a channel's name;
    ``at`` is how an instant is written."""

    lang: str
    at: str
    one_update: str
    updates: str
    ask: str
    ask_one: str
    ask_many: str
    yes: str
    thanks: str
    confirmed: str
    stop: str
    stopping: str
    unsubscribe: str
    done: str
    stopped: str
    channels: Mapping[str, str]
    types: Mapping[str, str] = field(default_factory=dict)

    def count(self, number: int) -> str:
        """``one update``, ``3 updates``."""
        return self.one_update if number == 1 else self.updates.format(number)

    def type(self, name: str) -> str:
        """What an event of this type is called."""
        return self.types.get(name) or name.replace("_", " ").capitalize()


ENGLISH = Words(
    lang="en",
    at="%d %b, %H:%M %Z",
    one_update="one update",
    updates="{} updates",
    ask="Have you seen this?",
    ask_one="You were sent {}. Confirm that you have seen it, and nobody will remind you again.",
    ask_many="You were sent {}. Confirm that you have seen them, and nobody will remind you again.",
    yes="Yes, I have seen this",
    thanks="Thank you",
    confirmed="{}: confirmed. You can close this page.",
    stop="Stop {}?",
    stopping="You will get no more {} from this service. What is new still waits for you when you "
    "sign in.",
    unsubscribe="Unsubscribe",
    done="Done",
    stopped="You will get no more {} from this service.",
    channels={"email": "emails", "sms": "text messages", "emergency": "push notifications"},
)
GERMAN = Words(
    lang="de",
    at="%d.%m., %H:%M %Z",
    one_update="eine Neuigkeit",
    updates="{} Neuigkeiten",
    ask="Haben Sie dies gesehen?",
    ask_one="Wir haben Ihnen {} geschickt. Bestätigen Sie, dass Sie sie gesehen haben, und niemand "
    "erinnert Sie mehr daran.",
    ask_many="Wir haben Ihnen {} geschickt. Bestätigen Sie, dass Sie sie gesehen haben, und "
    "niemand erinnert Sie mehr daran.",
    yes="Ja, ich habe dies gesehen",
    thanks="Vielen Dank",
    confirmed="{}: bestätigt. Sie können diese Seite schließen.",
    stop="Keine {} mehr?",
    stopping="Sie erhalten keine {} mehr von diesem Dienst. Was neu ist, wartet weiter auf Sie, "
    "wenn Sie sich anmelden.",
    unsubscribe="Abbestellen",
    done="Erledigt",
    stopped="Sie erhalten keine {} mehr von diesem Dienst.",
    channels={"email": "E-Mails", "sms": "SMS", "emergency": "Push-Nachrichten"},
    types={
        "agent_started": "Agent hat begonnen",
        "agent_thinking": "Agent dachte nach",
        "tool_executing": "Werkzeug gestartet",
        "tool_completed": "Werkzeug fertig",
        "agent_completed": "Agent ist fertig",
        "auth_started": "Anmeldung begonnen",
        "auth_validating": "Anmeldung geprüft",
        "auth_completed": "Angemeldet",
        "auth_failed": "Anmeldung fehlgeschlagen",
    },
)
_SPOKEN = {words.lang: words for words in (ENGLISH, GERMAN)}


def words_for(locale: str | None) -> Words:
    """``de-AT`` speaks German; what is not spoken here is answered in English."""
    language = (locale or "").replace("_", "-").partition("-")[0].lower()
    return _SPOKEN.get(language, ENGLISH)
