"""End-to-end encryption of a call: participants, tracks, states. No module here knows a transport."""
