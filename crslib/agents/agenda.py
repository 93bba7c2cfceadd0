"""The agenda-based user as an agent: rules and templates (`users.agenda`) in place of a model."""

from crslib.agents.base import Ask, AskQueue, Reply, Transcript
from crslib.dialogue import acts
from crslib.dialogue.domain import Domain
from crslib.dialogue.views import UserView
from crslib.errors import CrsError
from crslib.identity import digest
from crslib.users import agenda


class Agenda(AskQueue):
    """A user of a domain that works off an agenda. What it says depends on view and seed alone, so it answers at
    once."""

    def __init__(self, domain: Domain) -> None:
        """Raises `CrsError` when its wordings or the tagger of dialogue acts cannot be read."""
        super().__init__()
        self._phrases, self._tagger = agenda.read_phrases(domain), acts.read()
        self._transcript = Transcript()
        self.identity = {
            "agent": "agenda",
            "phrases": digest({act: list(wordings) for act, wordings in self._phrases.items()}, "phrases"),
            "tagger": self._tagger.identity,
        }

    def answer(self, ask: Ask) -> Reply:
        """The user's next turn. Raises `CrsError` for another role."""
        if not isinstance(ask.view, UserView):
            raise CrsError("agenda is a user and cannot recommend; name it as user_model")
        sent = self._transcript.add(ask.dialogue_id, [(message.role, message.text) for message in ask.view.messages])
        said = agenda.say(ask.view, ask.seed, self._phrases, self._tagger)
        return Reply(said.text, sent, len(said.text.split()), "left" if said.leaves else "end")

    def release(self, dialogue_id: str) -> None:
        self._transcript.release(dialogue_id)
