"""The parts of pages that follow from the code: a page names one as `<!-- made by make docs: NAME -->`."""

import functools
from collections.abc import Callable

from scripts.docs import commands, config_fields, folders

PARTS: dict[str, Callable[[], str]] = {
    "config": config_fields.sections,
    "tasks": functools.partial(config_fields.named, "tasks"),
    "cells": functools.partial(config_fields.named, "cells"),
    "names": config_fields.names,
    "commands": commands.page,
    "folders": folders.folders,
    "exit_statuses": folders.exit_statuses,
}
