"""End-to-end encryption of a call: participants, tracks, states. Nothing here knows a transport."""
