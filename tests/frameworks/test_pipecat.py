"""pipecat's transport over aiortc."""

from importlib import metadata


def test_the_version_is_the_one_of_the_page():
    assert metadata.version("pipecat-ai").startswith("1.14")
