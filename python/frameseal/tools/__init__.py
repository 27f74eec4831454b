"""The tools behind the command `frameseal`: demo, meeting, SFU, benchmark. No module of the library imports them."""
