"""What the command `frameseal` runs: demo, meeting, bench. No module of the library imports it."""
