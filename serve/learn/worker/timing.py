"""When runs begin by themselves, and when they do not."""

from polyad.adapters_store.feedback import Policy, Run, Trigger, next_time

_FRUITLESS = ("failed", "empty", "cancelled")


def due(policy: Policy, count: int, oldest: float | None, now: float) -> Trigger | None:
    """What a run begins for now, if it does: `count` events wait, the `oldest` since that time."""
    if oldest is None:
        return None
    if policy.schedule is not None:
        return "schedule" if next_time(policy.schedule, oldest) <= now else None
    if count >= policy.min_events:
        return "count"
    return "age" if now - oldest >= policy.max_age_s else None


def rest_s(policy: Policy, ended: Run, now: float) -> float:
    """For how many seconds after this run no other begins by itself: its events wait still, and would begin one."""
    if ended.state not in _FRUITLESS or not policy.keeps:
        return 0.0
    if ended.trigger == "schedule" and policy.schedule is not None:
        return max(policy.retry_s, next_time(policy.schedule, now) - now)
    return policy.retry_s
