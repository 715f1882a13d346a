"""The exception tree. Each message says what was expected and what came, then what to do next.

    SecureFrlError
      InvalidParameter (also ValueError)
        WrongLedger                of another data set or holder
      ConfigError                  a file that people wrote: StudyRefused, CharterRefused, BitBudget, DataRefused
      CharterViolation             a request outside what the site signed
      PolicyForbids                a charter outside the site's own limits
      BudgetExhausted
      LedgerCorrupt
        NewerFormat                written by a newer version
        StaleLedger                older than a head that somebody holds
      ClockMovedBack               the clock is behind the books
      UnexpectedState              a call that this stage has no place for
      EvidenceRefused              files that do not prove what they claim
      ProtocolError
        LocalProtocolError         we broke the rules
        PeerError                  they did
      RoundAborted                 nobody's fault, nothing released
      DecryptionFailed             never says why

No message holds a secret, a gradient, a patient's field or a message body.
"""

from __future__ import annotations


class SecureFrlError(Exception):
    """Root of every error that this package raises on purpose."""


class InvalidParameter(SecureFrlError, ValueError):
    """An argument outside its stated range, shape or type."""


class WrongLedger(InvalidParameter):
    """A ledger of another data set or holder."""


# --- files that people wrote -----------------------------------------------------------------------------------------


class ConfigError(SecureFrlError):
    """A file that people wrote cannot be used."""


class StudyRefused(ConfigError):
    """A study file with mistakes; the message lists all of them."""


class CharterRefused(ConfigError):
    """Constants that no site may sign, for instance a threshold that colluders could reach."""


class BitBudget(ConfigError):
    """The sum would not fit the widest ring."""


class DataRefused(ConfigError):
    """Data that cannot join: non-finite values, too many persons, duplicates. Shown at its own site only."""


# --- what a site refuses ---------------------------------------------------------------------------------------------


class CharterViolation(SecureFrlError):
    """A request outside what this site signed."""


class PolicyForbids(SecureFrlError):
    """A charter outside the site's own limits."""


class BudgetExhausted(SecureFrlError):
    """The next release would spend more than the budget; nothing was sampled, nothing was sent."""


class LedgerCorrupt(SecureFrlError):
    """A ledger, register or journal whose chain or format does not hold."""


class NewerFormat(LedgerCorrupt):
    """A record that a newer version wrote; it is left as it is."""


class StaleLedger(LedgerCorrupt):
    """A ledger older than the head that was last noted elsewhere, or a register older than its ledger."""


class ClockMovedBack(SecureFrlError):
    """The clock is behind the time that the last row was written at; nothing was booked."""


class UnexpectedState(SecureFrlError):
    """A call that this stage has no place for."""


class EvidenceRefused(SecureFrlError):
    """A run folder that does not prove what it claims."""


# --- the protocol ----------------------------------------------------------------------------------------------------


class ProtocolError(SecureFrlError):
    """The rules of the secure sum were broken."""


class LocalProtocolError(ProtocolError):
    """We broke the rules."""


class RoundAborted(SecureFrlError):
    """Nobody's fault: this round gives no sum, and what was released stays spent."""


class PeerError(ProtocolError):
    """A peer broke the rules; it is out, the others go on."""


class MalformedMessage(PeerError):
    """Bytes that are not a message of the expected type, size or form."""


class EnvelopeRefused(MalformedMessage):
    """A ciphertext that has not the outer form of an honest one; no decoder has seen it."""


class CiphertextRefused(PeerError):
    """A ciphertext that the guarded worker refused, or that ended or overran it."""


class UnexpectedMessage(PeerError):
    """A well-formed message that this stage has no place for."""


class LateMessage(UnexpectedMessage):
    """A frame of an earlier attempt, round or epoch; its sender stays in."""


class BadSignature(PeerError):
    """A signature or tag that does not verify over the bytes received."""


class EpochRefused(PeerError):
    """An epoch that is not newer, has expired, or starts in the past."""


class RoundRefused(PeerError):
    """A round announcement that contradicts the charter or the register."""


class ModelMissing(PeerError):
    """The site does not hold the policy that the announcement names."""


class RosterRefused(PeerError):
    """A list of participants that contradicts what this site knows."""


class KeyRefused(PeerError):
    """A public key that is low-order, or equal to another one."""


class BadShare(PeerError):
    """A share that does not open or match its commitment; the dealer is named, no key is disclosed."""


class SurvivorsRefused(PeerError):
    """A survivor set that does not keep what the charter promises."""


class TooFewConfirmations(PeerError):
    """Fewer than `threshold` sites confirmed the survivor set."""


class Equivocation(PeerError):
    """A valid confirmation names another survivor set; two lists signed by the coordinator would convict it."""


class HolderCheated(PeerError):
    """A returned share contradicts its commitment."""


class DealerCheated(PeerError, RoundAborted):
    """A rebuilt secret contradicts its commitment."""


class AlreadyAnswered(PeerError):
    """This stage has been answered, or a restart ended the round; a second answer is impossible."""


class SumOutOfRange(PeerError, RoundAborted):
    """A published sum beyond the charter's bound."""


class LaneMismatch(PeerError, RoundAborted):
    """Count, weight or zero lanes of a sum do not hold."""


class ModelDoesNotFollow(PeerError):
    """The next policy is not the optimiser's step from the published sum."""


class KeySuspect(PeerError):
    """Too much was decrypted under one key that was no sum; it is not used again."""


class Refused(PeerError):
    """A peer answered with a signed refusal; `code` names its reason."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the peer refused with code {code}. See that site's own log for the reason.")
        self.code = code


class TooFewSurvivors(RoundAborted):
    """Fewer sites than `min_survivors` or `threshold` remain."""


class NonceWithheld(RoundAborted):
    """Sites committed to a nonce and did not open it; the epoch starts again without them. `sites` names them."""

    def __init__(self, sites: tuple[int, ...]) -> None:
        super().__init__(
            f"expected a nonce of every site of the epoch, got none of {list(sites)[:20]}. "
            "Open the next epoch without them."
        )
        self.sites = sites


class StewardMissing(RoundAborted):
    """Too many sites refused the steward's key; the epoch starts again without it. `sites` names it."""

    def __init__(self, sites: tuple[int, ...]) -> None:
        super().__init__(
            f"expected an epoch's key that sites take, that of site {list(sites)} is refused. Open the next epoch "
            "without that site."
        )
        self.sites = sites


class TooFewShares(RoundAborted):
    """Fewer than `threshold` shares of a secret came back."""


class WorkerDied(SecureFrlError):
    """The guarded worker ended, or was ended at its deadline; whoever waited for it goes on without it."""


class StudyStopped(SecureFrlError):
    """The study cannot go on now; `resume` continues it."""


class DecryptionFailed(SecureFrlError):
    """An authenticated decryption failed. Never says why."""
