"""The Redis keys of feedback and runs; all of one hash tag, the registry's."""


class Keys:
    def __init__(self, namespace: str) -> None:
        self._prefix = f"{{{namespace}}}:learn"

    @property
    def policies(self) -> str:
        return f"{self._prefix}:policies"

    @property
    def policies_revision(self) -> str:
        return f"{self._prefix}:policies-revision"

    @property
    def fence(self) -> str:
        return f"{self._prefix}:fence"

    def interaction(self, tenant: str, response: str) -> str:
        return f"{self._prefix}:interaction:{tenant}/{response}"

    def expiry(self, tenant: str, response: str) -> str:
        """Only says until when an interaction was kept, and outlives it."""
        return f"{self._prefix}:expiry:{tenant}/{response}"

    def user(self, tenant: str, user: str) -> str:
        return f"{self._prefix}:user:{tenant}/{user}"

    def given(self, tenant: str, event: str) -> str:
        return f"{self._prefix}:given:{tenant}/{event}"

    @property
    def open(self) -> str:
        """The adapters with an open run, as tenant/adapter."""
        return f"{self._prefix}:open"

    def run(self, run: str) -> str:
        return f"{self._prefix}:run:{run}"

    def runs(self, tenant: str) -> str:
        return f"{self._prefix}:runs:{tenant}"

    def decisions(self, run: str) -> str:
        return f"{self._prefix}:decisions:{run}"

    def judges(self, tenant: str, adapter: str, version: int) -> str:
        """How many thumbs each user gave a version; by digests of their names."""
        return f"{self._prefix}:judges:{tenant}/{adapter}@{version}"

    def of_adapter(self, part: str, tenant: str, adapter: str) -> str:
        """`part`: events, scores, dead, tries, active, lease, order, memory, rest, fruitful, fruitless."""
        return f"{self._prefix}:{part}:{tenant}/{adapter}"
