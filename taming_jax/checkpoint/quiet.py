"""Orbax's log, without what users cannot act on."""

import logging


def quiet_orbax() -> None:
    """Keep what Orbax narrates of each file it touches out of the log, and errors that it raises as well: what a user
    can act on is raised by this package in its own words. For programs, and for loading in notebooks."""
    logger = logging.getLogger("absl")
    logger.removeFilter(_wanted)
    logger.addFilter(_wanted)


def _wanted(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname or (record.levelno >= logging.ERROR and not record.exc_info)
