"""Times that come again and again, in cron's words and UTC: `30 2 * * *` is half past two each night."""

from datetime import UTC, datetime
from typing import Annotated

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, StringConstraints


def next_time(schedule: str, after: float) -> float:
    """The first time of the schedule after `after`, both in Unix seconds. Raises ValueError for no schedule."""
    try:
        return next(CronSim(schedule, datetime.fromtimestamp(after, UTC))).timestamp()
    except CronSimError as error:
        raise ValueError(f"no schedule as cron has them, minute hour day month weekday: {error}") from error
    except StopIteration as error:
        raise ValueError("no day within fifty years is one of the schedule's") from error


def _checked(schedule: str) -> str:
    next_time(schedule, 0)
    return schedule


Schedule = Annotated[str, StringConstraints(max_length=100), AfterValidator(_checked)]
