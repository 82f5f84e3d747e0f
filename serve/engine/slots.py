"""Slots: the places of the engine that versions are put into when a batch needs them."""

from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping

from polyad.kernels.linear import PackedLinear
from polyad.serve.engine.giving_way import first_to_give_way
from polyad.serve.engine.layers import AdaptedLayer

PackedVersion = Mapping[str, PackedLinear]

_NOBODYS: Mapping[int, str] = {}


class Slots:
    """Which version is in which slot; the least recently used one of the tenant that has most gives way.

    A slot belongs to a version only once all of its layers are in. `revision` counts the changes.
    """

    def __init__(self, layers: Mapping[str, AdaptedLayer], count: int) -> None:
        self._layers = layers
        self._free = list(range(count))
        self._slot_of: OrderedDict[int, int] = OrderedDict()
        self._touched: dict[int, Collection[str]] = {}
        self._owner: dict[int, str] = {}
        self.count = count
        self.revision = 0

    @property
    def versions(self) -> Mapping[int, int]:
        """The slot of each version that has one, the least recently used first."""
        return self._slot_of

    def hold(self, needed: Mapping[int, PackedVersion], owners: Mapping[int, str] = _NOBODYS) -> None:
        """Have all of these versions, by engine id, in slots. Raises ValueError for more than there are slots."""
        if len(needed) > self.count:
            raise ValueError(f"a batch needs {len(needed)} versions, there are {self.count} slots")
        for engine_id in needed:
            if engine_id in self._slot_of:
                self._slot_of.move_to_end(engine_id)
        for engine_id, version in needed.items():
            if engine_id not in self._slot_of:
                self._put(engine_id, version, needed, owners.get(engine_id, ""))

    def release(self, engine_id: int) -> None:
        """Free the slot of a version, if it has one."""
        slot = self._slot_of.pop(engine_id, None)
        if slot is not None:
            self._empty(slot)
            self._free.append(slot)
            self._owner.pop(engine_id, None)

    def clear(self) -> None:
        for engine_id in list(self._slot_of):
            self.release(engine_id)

    def _put(self, engine_id: int, version: PackedVersion, needed: Collection[int], owner: str) -> None:
        if not self._free:
            self._make_room(needed, owner)
        slot = self._free[-1]
        self._touched[slot] = version.keys()
        try:
            for name, packed in version.items():
                self._layers[name].deltas.fill(slot, packed)
        except BaseException:
            self._empty(slot)
            raise
        self._slot_of[engine_id] = self._free.pop()
        self._owner[engine_id] = owner
        self.revision += 1

    def _make_room(self, needed: Collection[int], owner: str) -> None:
        held = Counter([*self._owner.values(), owner])
        idle = ((engine_id, self._owner[engine_id]) for engine_id in self._slot_of if engine_id not in needed)
        victim = first_to_give_way(idle, held)
        if victim is not None:
            self.release(victim)

    def _empty(self, slot: int) -> None:
        for name in self._touched.pop(slot, ()):
            self._layers[name].deltas.fill(slot, None)
        self.revision += 1
