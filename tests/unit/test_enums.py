"""The enums: closed sets whose members are their own plain strings."""

import pickle

import pytest

from frameseal import E2EEState, Profile

SEVEN = [
    "EncryptionSuccess",
    "DecryptionSuccess",
    "EncryptionFailed",
    "DecryptionFailed",
    "InternalError",
    "MissingKey",
    "InvalidKey",
]


def test_there_are_exactly_seven_states_each_named_as_its_value():
    assert sorted(E2EEState.__members__) == sorted(SEVEN)
    assert all(state.name == state.value == str(state) == state for state in E2EEState)


@pytest.mark.parametrize(
    ("profile", "name"),
    [
        (Profile.LIVEKIT, "livekit"),
        (Profile.VIDEOSDK, "videosdk"),
        (Profile.JITSI, "jitsi"),
        (Profile.NEXTCLOUD, "nextcloud"),
        (Profile.STREAM, "stream"),
        (Profile.SFRAME, "sframe"),
    ],
)
def test_a_profile_is_its_plain_string(profile, name):
    assert profile == name
    assert f"{profile}" == name
    assert Profile(name) is profile


@pytest.mark.parametrize("member", [*E2EEState, *Profile])
def test_members_survive_pickling_as_themselves(member):
    assert pickle.loads(pickle.dumps(member)) is member
