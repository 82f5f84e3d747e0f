import random
from dataclasses import dataclass

import pytest

from polyad.adapters_store.registry.directory import Directory


@dataclass(frozen=True)
class Entry:
    tenant: str
    name: str
    value: int = 0


def test_behaves_like_a_sorted_dictionary() -> None:
    chance = random.Random(3)
    plain: dict[tuple[str, str], Entry] = {("acme", "m"): Entry("acme", "m")}
    directory = Directory(plain.values())
    for step in range(500):
        key = (chance.choice(["acme", "globex"]), chance.choice("abcdefghijklm"))
        if key in plain and chance.random() < 0.4:
            directory.drop(*key)
            del plain[key]
        else:
            plain[key] = Entry(*key, step)
            directory.put(plain[key])
        assert len(directory) == len(plain)
        assert set(directory) == set(plain.values())
        assert directory.get(*key) == plain.get(key)
        for tenant in ("acme", "globex", "nobody"):
            ordered = [entry for (owner, _), entry in sorted(plain.items()) if owner == tenant]
            assert directory.page(tenant, None, 100) == ordered
            assert directory.page(tenant, "f", 3) == [entry for entry in ordered if entry.name > "f"][:3]


def test_what_is_not_there_cannot_be_dropped() -> None:
    with pytest.raises(KeyError):
        Directory([Entry("acme", "a")]).drop("globex", "a")
