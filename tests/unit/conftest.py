"""For all unit tests."""

import hypothesis

# no deadline: how long an example takes says more about what else the machine does
hypothesis.settings.register_profile("mapdev", deadline=None)
hypothesis.settings.load_profile("mapdev")
