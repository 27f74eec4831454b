"""The exception tree: its shape, the key id, and a round trip through pickle."""

import copy
import pickle

import pytest

import frameseal
from frameseal import exceptions
from frameseal.exceptions import FrameError

LEAVES = ["MalformedFrame", "UnknownKey", "AuthenticationFailed", "ReplayedFrame", "SenderMismatch", "KeyExhausted"]


def test_every_failure_is_a_direct_kind_of_frame_error_and_there_are_no_others():
    found = {name: cls for name, cls in vars(exceptions).items() if isinstance(cls, type)}
    assert sorted(found) == sorted(["FrameError", *LEAVES])
    assert all(found[name].__bases__ == (FrameError,) for name in LEAVES)
    assert FrameError.__bases__ == (Exception,)


@pytest.mark.parametrize("name", LEAVES)
def test_each_is_public_and_says_what_to_do(name):
    cls = getattr(frameseal, name)
    assert cls is getattr(exceptions, name)
    assert cls.__doc__ != FrameError.__doc__
    assert len(cls.__doc__.split()) > 10


@pytest.mark.parametrize("name", ["FrameError", *LEAVES])
@pytest.mark.parametrize("kid", [None, 0, 255])
def test_message_and_key_id_survive_pickling_and_copying(name, kid):
    error = getattr(exceptions, name)("what happened", kid)
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert (str(twin), twin.args, twin.kid) == ("what happened", ("what happened",), kid)


def test_the_key_id_is_none_unless_given():
    assert FrameError("what happened").kid is None
