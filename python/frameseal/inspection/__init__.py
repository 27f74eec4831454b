"""What sealed frames look like to somebody without a key. Nothing on the path of a frame imports it."""
