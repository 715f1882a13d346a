"""What happened, as frozen records: one event a release. Never an epsilon: it is derived whenever it is read.

An event's canonical bytes are what a ledger chains and signs. They are JSON with sorted keys and a versioned
`format`; reading refuses every byte string that is not exactly what writing would produce. Version 1 knew no noised
sums inside a release, so it meant one; in versions 1 and 2 every release has the whole message, with noise shares that
add to 1. Both are still read and keep their bytes, and an event is written in version 2 when that can say it. No torch.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache

import msgspec

from secure_frl.errors import InvalidParameter, LedgerCorrupt
from secure_frl.privacy.noise import LARGEST_DEVIATION
from secure_frl.privacy.round_shares import blocks_in_round, is_partial, root_share, share_of
from secure_frl.privacy.sensitivity import ROUNDING_BETA, rounded_shift
from secure_frl.privacy.unit import ADD_OR_REMOVE_ONE, PATIENT, TRAJECTORY, check_unit
from secure_frl.secure_sum import AUXILIARY_BLOCKS, Block, SumConstants

_FORMAT = "secure_frl/gaussian_sum_event/v"
EVENT_VERSION = 2  # of a release that has every block of the message
PARTIAL_VERSION = 3  # of one that has some: its shares add to less than 1, and a block without a share is noise only
EVENT_FORMAT = f"{_FORMAT}{EVENT_VERSION}"
FRESH = "fresh"  # composition group of windows that no unit enters more than R times
DISTRIBUTED = "distributed"
LOCAL = "local"
UNSAFE_NONE = "unsafe-none"
NOISES = (DISTRIBUTED, LOCAL, UNSAFE_NONE)
PRODUCTION = "production"
REHEARSAL = "rehearsal"
POLICY_UPDATE = "policy_update"
VALUE_START = "value_start"  # purpose of the release before the first backup of values
LARGEST_NOISED_SUMS = 100_000
MAX_EVENT_BYTES = 1 << 16
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_VERSION = re.compile(re.escape(_FORMAT) + r"([1-9][0-9]{0,8})")
_FIRST_UNITS = (TRAJECTORY, PATIENT)  # what version 1 could say
_RELATIVE_SLACK = 1e-9  # between figures that are stated twice, for instance scale and S sqrt(h) / sigma


@dataclass(frozen=True, slots=True)
class GaussianSumEvent:
    """One noised sum that left a site, with every number that its privacy cost follows from.

    Raises InvalidParameter for a field outside its range, or fields that contradict each other.
    """

    charter_hash: str  # hex
    dataset_id: str  # whose lifetime budget
    composition_group: str  # "fresh", or the data set id when every event meets the same people
    round: int
    attempt: int
    window: str  # the collection window; attempts have windows of their own
    mechanism: str  # distributed | local | unsafe-none
    purpose: str
    unit: str
    relation: str
    max_rounds_per_person: int  # R
    max_sites_per_person: int  # M
    blocks: tuple[Block, ...]  # name, start, stop, C_b, s_b
    noise_multiplier: float  # sigma, nominal
    integer_noise_scale: int  # S, deviation of one site's noise on the grid
    scale: float  # kappa
    length: int  # P
    rounding_bound: float  # L2 shift of one unit on the grid, margin and rounding included
    rounding_beta: float
    honest_shares: int  # h
    max_colluders: int  # c
    min_survivors: int
    survivors: tuple[int, ...] | None  # None before they are known
    sampling_rate: float  # q
    sampler: str  # "all" at q = 1, "poisson" below
    declared_batch: int  # declared units a site and round
    delta: float
    random_source: str  # production | rehearsal
    code_version: str
    register_root_before: str  # hex, keyed root of the participation register
    register_root_after: str
    noised_sums: int = 1  # of the same units, composed inside this one release: local steps x epochs
    version: int = EVENT_VERSION  # of the bytes; stands in `format`

    def __post_init__(self) -> None:
        check_unit(self.unit, self.relation, self.sampling_rate)
        for name, holds, expected in _rules(self):
            if not holds:
                raise InvalidParameter(
                    f"event: expected {expected}, got {name}={getattr(self, name)!r}. "
                    "Make events from the charter's constants with sum_event."
                )

    def canonical(self) -> bytes:
        """Return the bytes that a ledger stores: the same event always gives the same bytes."""
        fields = {"format": f"{_FORMAT}{self.version}", **msgspec.to_builtins(self)}
        del fields["version"]
        if self.version == 1:
            del fields["noised_sums"]
        return _encode(fields).encode()


def _rules(event: GaussianSumEvent) -> tuple[tuple[str, bool, str], ...]:
    private = event.mechanism in (DISTRIBUTED, LOCAL)
    shares = event.honest_shares if event.mechanism == DISTRIBUTED else 1
    floats = (event.noise_multiplier, event.scale, event.rounding_bound)
    return (
        ("mechanism", event.mechanism in NOISES, f"one of {NOISES}"),
        ("charter_hash", bool(event.charter_hash) and bool(_HEX.fullmatch(event.charter_hash)), "lower-case hex"),
        ("register_root_before", bool(_HEX.fullmatch(event.register_root_before)), "lower-case hex"),
        ("register_root_after", bool(_HEX.fullmatch(event.register_root_after)), "lower-case hex"),
        ("composition_group", event.composition_group in (FRESH, event.dataset_id), "'fresh' or the data set id"),
        ("dataset_id", bool(event.dataset_id) and event.dataset_id != FRESH, "a name that is not 'fresh'"),
        ("round", event.round >= 1, "round >= 1"),
        ("attempt", event.attempt >= 0, "attempt >= 0"),
        ("purpose", bool(event.purpose), "what the release is for"),
        ("noised_sums", 1 <= event.noised_sums <= LARGEST_NOISED_SUMS, f"1 to {LARGEST_NOISED_SUMS}"),
        ("version", event.version in (1, EVENT_VERSION, PARTIAL_VERSION), f"1 to {PARTIAL_VERSION}"),
        ("version", (event.version == PARTIAL_VERSION) == is_partial(event.blocks), "the version that shares ask for"),
        (
            "version",
            event.version > 1
            or (event.noised_sums == 1 and event.unit in _FIRST_UNITS and event.relation == ADD_OR_REMOVE_ONE),
            "what version 1 could say",
        ),
        ("max_rounds_per_person", event.max_rounds_per_person >= 1, "at least 1"),
        ("max_sites_per_person", event.max_sites_per_person >= 1, "at least 1"),
        ("honest_shares", event.honest_shares == event.min_survivors - event.max_colluders, "min_survivors - c"),
        ("honest_shares", event.honest_shares >= 2, "at least 2"),
        ("sampling_rate", 0 < event.sampling_rate <= 1, "in (0, 1]"),
        ("sampler", event.sampler == ("all" if event.sampling_rate == 1 else "poisson"), "all at q = 1, else poisson"),
        ("declared_batch", event.declared_batch >= 1, "at least 1"),
        ("delta", 0 < event.delta < 1, "in (0, 1)"),
        ("random_source", event.random_source in (PRODUCTION, REHEARSAL), "production or rehearsal"),
        ("length", event.length >= 1, "at least 1"),
        ("noise_multiplier", all(map(math.isfinite, floats)), "finite figures"),
        ("blocks", _blocks_cover(event.blocks, event.length), "blocks that cover [0, length), shares up to 1 in all"),
        (
            "noise_multiplier",
            event.noise_multiplier > 0 if private else event.noise_multiplier == 0,
            "sigma of the noise",
        ),
        (
            "integer_noise_scale",
            64 <= event.integer_noise_scale <= LARGEST_DEVIATION if private else event.integer_noise_scale == 0,
            "S from 64 to 8192, 0 without noise",
        ),
        ("rounding_beta", 0 < event.rounding_beta <= 1e-9, "in (0, 1e-9]"),
        ("scale", event.scale > 0, "scale > 0"),
        (
            "scale",
            not private
            or math.isclose(
                event.scale * event.noise_multiplier,
                event.integer_noise_scale * math.sqrt(shares),
                rel_tol=_RELATIVE_SLACK,
            ),
            "S sqrt(shares) / sigma",
        ),
        (
            "rounding_bound",
            event.scale > 0
            and share_of(event.blocks) > 0
            and event.rounding_bound
            >= rounded_shift(event.scale * root_share(event.blocks), event.length, event.rounding_beta)
            * (1 - _RELATIVE_SLACK),
            "at least the shift of one unit after rounding",
        ),
    )


def _blocks_cover(blocks: tuple[Block, ...], length: int) -> bool:
    start = 0
    for block in blocks:
        fine = math.isfinite(block.clip_norm) and block.clip_norm > 0 and 0 <= block.noise_share <= 1
        if block.start != start or block.stop <= block.start or not fine:
            return False
        start = block.stop
    is_whole = is_partial(blocks) or all(block.noise_share > 0 for block in blocks)
    return start == length and 0 < share_of(blocks) <= 1 + _RELATIVE_SLACK and is_whole


def event_in_round(
    event: GaussianSumEvent, blocks: tuple[Block, ...], rounds: int, round_number: int
) -> GaussianSumEvent:
    """Return an event of another round of the same charter, whose blocks are `blocks`; see `blocks_in_round`."""
    found = tuple(map(_with_floats, blocks_in_round(blocks, rounds, round_number)))
    return replace(
        event,
        round=round_number,
        purpose=purpose_of(found),
        blocks=found,
        rounding_bound=rounded_shift(event.scale * root_share(found), event.length, event.rounding_beta),
        version=PARTIAL_VERSION if is_partial(found) else EVENT_VERSION,
    )


def _with_floats(block: Block) -> Block:
    # A whole number in a float's place would be written as 1 and read back as 1.0: another event.
    return Block(block.name, block.start, block.stop, float(block.clip_norm), float(block.noise_share))


def purpose_of(blocks: tuple[Block, ...]) -> str:
    """Return what a message of these blocks is for: the policy's update, and each figure that travels with it.

    A message without a share for the policy is the start of values.
    """
    if not blocks[0].noise_share:
        return VALUE_START
    return "+".join((POLICY_UPDATE, *(block.name for block in blocks if block.name in AUXILIARY_BLOCKS)))


def sum_event(
    constants: SumConstants,
    *,
    charter_hash: str,
    dataset_id: str,
    round_number: int,
    attempt: int,
    window: str,
    unit: str,
    max_rounds_per_person: int,
    max_sites_per_person: int,
    declared_batch: int,
    delta: float,
    random_source: str,
    code_version: str,
    composition_group: str = FRESH,
    purpose: str | None = None,
    relation: str = ADD_OR_REMOVE_ONE,
    noised_sums: int = 1,
    sampling_rate: float = 1.0,
    survivors: tuple[int, ...] | None = None,
    register_root_before: str = "",
    register_root_after: str = "",
) -> GaussianSumEvent:
    """Return the event of one release under a charter's constants; each argument is the field of that name.

    purpose: None names the policy's update and the auxiliary blocks.
    Raises InvalidParameter when the constants contradict each other.
    """
    return GaussianSumEvent(
        charter_hash=charter_hash,
        dataset_id=dataset_id,
        composition_group=composition_group,
        round=round_number,
        attempt=attempt,
        window=window,
        mechanism=constants.noise,
        purpose=purpose_of(constants.blocks) if purpose is None else purpose,
        unit=unit,
        relation=relation,
        max_rounds_per_person=max_rounds_per_person,
        max_sites_per_person=max_sites_per_person,
        blocks=tuple(_with_floats(block) for block in constants.blocks),
        noise_multiplier=float(constants.noise_multiplier),
        integer_noise_scale=constants.integer_noise_scale,
        scale=float(constants.scale),
        length=constants.length,
        rounding_bound=rounded_shift(constants.scale * root_share(constants.blocks), constants.length, ROUNDING_BETA),
        rounding_beta=ROUNDING_BETA,
        honest_shares=constants.honest_shares,
        max_colluders=constants.max_colluders,
        min_survivors=constants.min_survivors,
        survivors=survivors,
        sampling_rate=float(sampling_rate),
        sampler="all" if sampling_rate == 1 else "poisson",
        declared_batch=declared_batch,
        delta=float(delta),
        random_source=random_source,
        code_version=code_version,
        register_root_before=register_root_before,
        register_root_after=register_root_after,
        noised_sums=noised_sums,
        version=PARTIAL_VERSION if is_partial(constants.blocks) else EVENT_VERSION,
    )


@lru_cache(maxsize=4096)
def decode_event(data: bytes) -> GaussianSumEvent:
    """Return the event that `canonical` wrote.

    Raises LedgerCorrupt for an unknown version or field, a missing one, a value out of range, or bytes in any other
    form than the canonical one.
    """
    if len(data) > MAX_EVENT_BYTES:
        raise LedgerCorrupt(
            f"expected an event of at most {MAX_EVENT_BYTES} bytes, got {len(data)}. "
            "Restore the ledger from its export."
        )
    try:
        fields = msgspec.json.decode(data)
        found = fields.pop("format", None) if isinstance(fields, dict) else None
        fields["version"] = _version(found)
        event = msgspec.convert(fields, GaussianSumEvent, strict=True)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise LedgerCorrupt(
            "expected the canonical bytes of an event, got bytes that do not read as one. "
            "Restore the ledger from its export."
        ) from error
    # Unknown fields, another order, spaces and floats written otherwise all fail here.
    if event.canonical() != data:
        raise LedgerCorrupt(
            "expected the canonical form of an event, got other bytes with the same meaning or more fields. "
            "Restore the ledger from its export."
        )
    return event


def _version(found: object) -> int:
    named = _VERSION.fullmatch(found) if isinstance(found, str) else None
    if named is None:
        raise LedgerCorrupt(
            f"expected format={EVENT_FORMAT!r}, got {str(found)[:80]!r}. Restore the ledger from its export."
        )
    version = int(named[1])
    if version > PARTIAL_VERSION:
        raise LedgerCorrupt(
            f"expected events up to version {PARTIAL_VERSION}, got version {version}: this ledger was written by a "
            "newer version of secure-frl. Read it with that one; nothing in it is damaged."
        )
    return version
