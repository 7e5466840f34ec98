"""Prints the scalars that TensorBoard itself reads in a folder, as JSON: tag -> [[step, value]].

With a second argument "all", what a lost attempt wrote is not dropped.
"""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

events = EventAccumulator(
    sys.argv[1], size_guidance={SCALARS: 0}, purge_orphaned_data=sys.argv[2:] != ["all"]
).Reload()
tags = events.Tags()[SCALARS]
print(json.dumps({tag: [[event.step, event.value] for event in events.Scalars(tag)] for tag in tags}))
